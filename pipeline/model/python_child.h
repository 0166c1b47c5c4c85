// SPDX-License-Identifier: Apache-2.0
// PythonChild: one `python -m siftd._scorer.child` and the exchange of messages with it. One thread
// at a time. An error of the user's code comes back as kInternal and the child lives on.
// kUnavailable says how the child ended (it is killed when it does not answer in the agreed form);
// kDeadlineExceeded: it was killed because it did not answer in time; kCancelled: the worker is
// ending.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/model/child_process.h"
#include "pipeline/model/python_frames.h"
#include "pipeline/model/score_cost.h"

namespace siftd {

struct PythonChildOptions {
  std::string python = "python3";  // interpreter; searched on PATH
  std::string factory;             // "module:function"
  std::string device = "cpu";
  int threads = 1;
  ScoreCost cost;
};

// What a child says of its scorer once it is loaded.
struct PythonReady {
  std::string sha256;    // 64 hexadecimal digits
  std::string manifest;  // a serialized ArtifactManifest
};

class PythonChild {
 public:
  // Does not wait: several load at the same time. `stop_fd`: readable = end every wait.
  static Result<std::unique_ptr<PythonChild>> Spawn(const PythonChildOptions& options, int stop_fd);

  Result<PythonReady> AwaitReady(Duration timeout);
  Status Update(const python_frames::Request& request, Duration timeout);
  // float32 [columns][rows], `values` in all. REQUIRES: values > 0
  Result<std::vector<float>> Score(const python_frames::Request& request, std::size_t values,
                                   Duration timeout);

  bool alive() const { return process_ != nullptr && process_->alive(); }
  // Of a child that is not alive: "the scorer process 12 was ended by signal 9 (Killed)".
  std::string LastWords() { return Gone(Unavailable("it ended"), {}).message(); }
  pid_t pid() const { return pid_; }

 private:
  explicit PythonChild(std::unique_ptr<ChildProcess> process);
  // Sends, if there is something to send. The reply's header, or the text of an ERROR as kInternal.
  Result<python_frames::Header> Exchange(const python_frames::Request* request,
                                         std::size_t scores_bytes, MonoTime deadline);
  // Ends the child and says how that went.
  Status Gone(const Status& why, Duration timeout);

  std::unique_ptr<ChildProcess> process_;  // null: gone
  const pid_t pid_;
};

}  // namespace siftd
