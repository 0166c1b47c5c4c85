# LibTorch from a pip wheel, without Caffe2's CUDA configuration: our sources hold no CUDA, and one build serves the CPU
# and the CUDA wheel of the same version. Gives TorchLite::torch and SIFTD_TORCH_VERSION.
#   -DSIFTD_PYTHON=...      a Python that has torch (default: .venv/bin/python, then python3)
#   -DSIFTD_TORCH_DIR=...   or the directory that holds include/ and lib/

if(NOT SIFTD_TORCH_DIR)
  if(NOT SIFTD_PYTHON)
    if(EXISTS "${CMAKE_SOURCE_DIR}/.venv/bin/python")
      set(SIFTD_PYTHON "${CMAKE_SOURCE_DIR}/.venv/bin/python")
    else()
      set(SIFTD_PYTHON python3)
    endif()
  endif()
  execute_process(
    COMMAND "${SIFTD_PYTHON}" -c
      "import importlib.util as u; print(list(u.find_spec('torch').submodule_search_locations)[0], end='')"
    OUTPUT_VARIABLE SIFTD_TORCH_DIR RESULT_VARIABLE torch_rc ERROR_QUIET)
  if(NOT torch_rc EQUAL 0)
    message(FATAL_ERROR "siftd needs PyTorch's headers and libraries: '${SIFTD_PYTHON}' has no torch. "
      "Run './dev setup', or pass -DSIFTD_PYTHON=/path/to/python or -DSIFTD_TORCH_DIR=/path/to/torch.")
  endif()
endif()

foreach(needed include/torch/script.h lib/libtorch.so lib/libtorch_cpu.so lib/libc10.so)
  if(NOT EXISTS "${SIFTD_TORCH_DIR}/${needed}")
    message(FATAL_ERROR "siftd: ${SIFTD_TORCH_DIR} has no ${needed}; it needs a LibTorch or torch wheel >= 2.11.")
  endif()
endforeach()
set(torch_version_h "${SIFTD_TORCH_DIR}/include/torch/headeronly/version.h")
if(NOT EXISTS "${torch_version_h}")
  set(torch_version_h "${SIFTD_TORCH_DIR}/include/torch/csrc/api/include/torch/version.h")
endif()
set(SIFTD_TORCH_VERSION "")
foreach(part MAJOR MINOR PATCH)
  file(STRINGS "${torch_version_h}" line REGEX "define TORCH_VERSION_${part} ")
  string(REGEX MATCH "[0-9]+$" number "${line}")
  list(APPEND SIFTD_TORCH_VERSION "${number}")
endforeach()
list(JOIN SIFTD_TORCH_VERSION "." SIFTD_TORCH_VERSION)
message(STATUS "LibTorch ${SIFTD_TORCH_VERSION} from ${SIFTD_TORCH_DIR}")

if(NOT TARGET TorchLite::torch)
  add_library(TorchLite::torch INTERFACE IMPORTED GLOBAL)
  # SYSTEM after our own protobuf: the wheel ships an old google/protobuf (one reason for one home per library).
  target_include_directories(TorchLite::torch SYSTEM INTERFACE
    "${SIFTD_TORCH_DIR}/include" "${SIFTD_TORCH_DIR}/include/torch/csrc/api/include")
  # libtorch.so is named even though no symbol of it is used: it pulls in libtorch_cuda where there is one.
  target_link_libraries(TorchLite::torch INTERFACE
    "-Wl,--no-as-needed" "${SIFTD_TORCH_DIR}/lib/libtorch.so" "${SIFTD_TORCH_DIR}/lib/libtorch_cpu.so"
    "${SIFTD_TORCH_DIR}/lib/libc10.so" "-Wl,--as-needed")
endif()
set(TorchLite_FOUND TRUE)
