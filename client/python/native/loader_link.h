// SPDX-License-Identifier: Apache-2.0
// LoaderLink: a drop-in's connection to its workers (mode VERDICTS): candidates out, verdicts back.
// LoaderCore over sockets on an I/O thread of its own, which never needs Python's interpreter lock.
// Offer, CancelPass, CloseLease, SetStep, HasRoom, Wait, Take: one thread at a time; Wake and the
// figures: any thread. Nothing but Wait and Stop blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "siftd/client_options.h"

namespace siftd {

class LoaderLink {
 public:
  // `hello`: what the loader says of itself, its session's incarnation, run and job included.
  LoaderLink(const ClientOptions& client, const Hello& hello);
  // In another process than the one that made it (after a fork) it ends nothing.
  ~LoaderLink();
  LoaderLink(const LoaderLink&) = delete;
  LoaderLink& operator=(const LoaderLink&) = delete;

  // Resolves the endpoints and begins to connect.
  Status Start();
  // Says Goodbye and ends the thread.
  void Stop();

  // Takes a batch on as a lease; its tensors' bytes are shared until the verdict. Error: see
  // LoaderCore::Offer.
  Status Offer(Candidates batch);
  // False: two batches wait to be sent; the next Wait ends when there is room.
  bool HasRoom();
  void CancelPass(std::uint64_t pass);
  void CloseLease(const BatchKey& key);
  void SetStep(std::uint64_t step);

  // Until Wake, until `timeout`, and, unless `quiet`, until there is something to take.
  void Wait(Duration timeout, bool quiet);
  void Wake();

  struct Verdicted {
    Verdict verdict;
    double seconds = 0;  // since it was sent
  };
  struct Taken {
    std::vector<Verdicted> verdicts;
    std::vector<double> late_seconds;  // ages of verdicts on leases that were given up
    std::vector<std::string> log;
  };
  Taken Take();

  std::size_t workers() const;
  std::size_t connected() const;
  std::uint64_t late_verdicts() const;
  // Why nothing more will happen with any worker; empty: nothing is wrong.
  std::string failure() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
