# One static target per folder, one test program per folder of tests.

add_library(siftd_warnings INTERFACE)
# Options structs are initialised by name, the rest by default. -Wrestrict: g++ 12 sees overlaps in std::string's
# operator+ that are not there (GCC bug 105651).
target_compile_options(siftd_warnings INTERFACE -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Woverloaded-virtual
  -Wno-missing-field-initializers $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)

# siftd_library(siftd_base SOURCES a.cc b.cc DEPS siftd_x)
function(siftd_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/siftd>)
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} Threads::Threads
    PRIVATE ${ARG_PRIVATE_DEPS} $<BUILD_INTERFACE:siftd_warnings>)
endfunction()

# siftd_test(siftd_base_test LABEL unit SOURCES a_test.cc DEPS siftd_base [TIMEOUT seconds])
function(siftd_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main siftd_warnings)
  # Under sanitizers what the test programs themselves hold takes half the time to compile so, and is run once.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Sanitize>:-O0>)
  if(SIFTD_SANITIZE MATCHES thread)
    target_sources(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/sanitize/zmq_seen.cc")
    target_link_libraries(${name} PRIVATE ${CMAKE_DL_LIBS})
  endif()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
endfunction()
