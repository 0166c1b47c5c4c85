// SPDX-License-Identifier: Apache-2.0
// DealerPool: a client's connections, one DEALER per worker, with CURVE if it has keys. It moves
// frames; it never looks into a message. One thread (the client's I/O thread) makes every call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/net/key_files.h"
#include "pipeline/net/wakeup.h"

namespace siftd {

struct DealerOptions {
  std::int64_t max_frame_bytes = 256ll << 20;
  int high_water_mark = 128;  // messages
};

class DealerPool {
 public:
  explicit DealerPool(const DealerOptions& options = {});
  // Messages that were just sent get 200 ms to leave.
  ~DealerPool();
  DealerPool(const DealerPool&) = delete;
  DealerPool& operator=(const DealerPool&) = delete;

  // From now on connections are encrypted. Before the first Add.
  void UseKeys(ClientKeys keys);

  // Begins to connect; the index of the worker. Error: not an address.
  Result<std::size_t> Add(const std::string& endpoint);
  std::size_t size() const;
  const std::string& endpoint(std::size_t i) const;
  // Closes the socket and opens a new one: what was queued is gone, and the worker sees another
  // peer.
  void Reopen(std::size_t i);

  // Until a message is there, `wakeup` was woken, or the time is over (a signal may end it sooner).
  // Its cost grows with the workers that something came from, not with all.
  void Poll(Duration timeout, const Wakeup& wakeup);

  struct Received {
    std::size_t worker = 0;
    Frames frames;
    bool too_many_frames = false;
  };
  // False: nothing of what was there at the last Poll is left. Workers take turns.
  bool Receive(Received* out);

  // A connection that does not come about.
  struct Refused {
    std::size_t worker = 0;
    std::string why;        // and what to do
    bool for_good = false;  // the worker's word: time alone changes nothing
  };
  // Those since the last call, as of the last Poll. They are tried again every few seconds.
  std::vector<Refused> TakeRefused();

  enum class Sent { kSent, kNotNow };
  // kNotNow: no connection yet, or its queue is full; try again after a Poll.
  [[nodiscard]] Sent Send(std::size_t i, const Frames& frames);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// tcp://NAME:PORT -> one endpoint per A/AAAA record; addresses and ipc:// stay as they are. Blocks
// for the look-up.
Result<std::vector<std::string>> ResolveEndpoint(const std::string& endpoint);

}  // namespace siftd
