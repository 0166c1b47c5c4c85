// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/peers/state_file.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "pipeline/base/fault_point.h"
#include "pipeline/wire/codec.h"

namespace siftd::fault {
namespace {

constexpr SessionId kNobody{1, 1};

void Put(std::uint64_t value, std::string* out) {
  char bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  out->append(bytes, sizeof(bytes));
}

void Put(const Message& message, std::string* out) {
  const Frames frames = Encode(message);
  Put(frames.size(), out);
  for (const Frame& frame : frames) {
    Put(frame.size(), out);
    out->append(frame.view());
  }
}

class Reader {
 public:
  explicit Reader(std::string bytes) : bytes_(std::move(bytes)) {}

  Result<std::uint64_t> Number() {
    std::uint64_t value = 0;
    if (bytes_.size() - at_ < sizeof(value)) return DataLoss("the state file is cut short");
    std::memcpy(&value, bytes_.data() + at_, sizeof(value));
    at_ += sizeof(value);
    return value;
  }
  Result<Message> TakeMessage() {
    SIFTD_ASSIGN_OR_RETURN(const std::uint64_t count, Number());
    Frames frames;
    for (std::uint64_t i = 0; i < count; ++i) {
      SIFTD_ASSIGN_OR_RETURN(const std::uint64_t size, Number());
      if (bytes_.size() - at_ < size) return DataLoss("the state file is cut short");
      frames.push_back(Frame::Copy(bytes_.data() + at_, size));
      at_ += size;
    }
    return Decode(frames);
  }

 private:
  const std::string bytes_;
  std::size_t at_ = 0;
};

}  // namespace

Status WriteState(const TrainerState& state, const std::string& path) {
  std::string bytes;
  Put(state.steps, &bytes);
  Put(state.rank, &bytes);
  Put(state.world, &bytes);
  Put(state.loader_count, &bytes);
  Put(state.batch_size, &bytes);
  Put(state.half ? 1 : 0, &bytes);
  Put(Position{kNobody, 1, 0, state.decided, state.world, false}, &bytes);
  if (state.half) {
    Selected half = *state.half;
    half.session = kNobody;
    half.run = 1;
    Put(half, &bytes);
  }
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size() / 2));
  file.flush();
  FaultPoint("state");
  file.write(bytes.data() + bytes.size() / 2,
             static_cast<std::streamsize>(bytes.size() - bytes.size() / 2));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(partial, path, error);
  if (!file || error) return Unavailable("cannot write the state to '" + path + "'");
  return OkStatus();
}

Result<TrainerState> ReadState(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("cannot read the state '" + path + "'");
  Reader reader(std::string(std::istreambuf_iterator<char>(file), {}));
  TrainerState state;
  SIFTD_ASSIGN_OR_RETURN(state.steps, reader.Number());
  for (std::uint32_t* field : {&state.rank, &state.world, &state.loader_count, &state.batch_size}) {
    SIFTD_ASSIGN_OR_RETURN(const std::uint64_t value, reader.Number());
    *field = static_cast<std::uint32_t>(value);
  }
  SIFTD_ASSIGN_OR_RETURN(const std::uint64_t has_half, reader.Number());
  SIFTD_ASSIGN_OR_RETURN(const Message decided, reader.TakeMessage());
  if (!std::holds_alternative<Position>(decided)) return DataLoss("the state holds no Position");
  state.decided = std::get<Position>(decided).decided;
  if (has_half == 0) return state;
  SIFTD_ASSIGN_OR_RETURN(Message half, reader.TakeMessage());
  if (!std::holds_alternative<Selected>(half)) return DataLoss("the state holds no Selected");
  state.half = std::get<Selected>(std::move(half));
  return state;
}

}  // namespace siftd::fault
