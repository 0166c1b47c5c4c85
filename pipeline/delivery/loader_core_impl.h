// SPDX-License-Identifier: Apache-2.0
// The state behind LoaderCore: loader_core.cc (positions, passes, messages), loader_leases.cc
// (sending, suspects). Internal to pipeline/delivery.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/delivery/client_links.h"
#include "pipeline/delivery/credit.h"
#include "pipeline/delivery/decided_keys.h"
#include "pipeline/delivery/given_up.h"
#include "pipeline/delivery/lease_table.h"
#include "pipeline/delivery/loader_core.h"
#include "pipeline/delivery/score_cache.h"
#include "pipeline/delivery/suspects.h"

namespace siftd {

struct LoaderCore::Impl final : ClientLinks::Owner {
  explicit Impl(LoaderCoreOptions o)
      : options(std::move(o)),
        links(this, options.incarnation, options.hello_deadline),
        scores(options.rescore_every) {}

  // ClientLinks::Owner
  Hello MakeHello() override;
  Heartbeat MakeHeartbeat(MonoTime now) override;
  void OnOpened(std::size_t w, const Welcome& welcome, MonoTime now) override;
  void OnLost(std::size_t w, MonoTime now) override;
  void OnSessionMessage(std::size_t w, Message& message, MonoTime now) override;

  // loader_core.cc
  void On(std::size_t w, Credit& m, MonoTime now);
  void On(std::size_t w, Settled& m, MonoTime now);
  void On(std::size_t w, Return& m, MonoTime now);
  void On(std::size_t w, Verdict& m, MonoTime now);
  void On(std::size_t w, Position& m, MonoTime now);
  void On(std::size_t w, EpochAck& m, MonoTime now);
  void On(std::size_t w, Drain& m, MonoTime now);
  void On(std::size_t w, Goodbye& m, MonoTime now);
  void SendEnds(std::size_t w, MonoTime now);
  bool Acked(std::uint64_t pass) const;
  bool done() const;
  // Without a position it is the end of a job before this one, which the workers still remember.
  bool run_done() const { return run != 0 && done_run >= run; }
  std::string WaitingFor(MonoTime now) const;
  // World 1 without steps_per_epoch: passes stay apart.
  bool lockstep() const { return options.mode == Mode::kSamples && world == 1 && !repeat; }

  // loader_leases.cc
  void Settle(const BatchKey& key);
  void KeepScores(const BatchKey& key, const std::vector<float>& score);
  void TakeBackLate(MonoTime now);
  void Pump(MonoTime now);
  std::optional<std::size_t> PumpCareful(MonoTime now);
  std::optional<std::size_t> BestWorker(std::optional<std::size_t> reserved) const;
  bool Usable(std::size_t w) const { return links.open(w) && !peers[w].draining; }
  void SendLease(std::size_t w, const BatchKey& key, MonoTime now);

  struct Peer {
    CreditSender credit;
    std::set<std::uint64_t> ends_sent;  // passes, in this session
    bool draining = false;
  };

  const LoaderCoreOptions options;
  ClientLinks links;
  std::vector<Peer> peers;
  LeaseTable leases;
  Suspects suspects;
  ScoreCache scores;
  // The one batch that is being scored alone, and where.
  std::optional<std::pair<BatchKey, std::size_t>> careful;
  std::optional<std::size_t> reserved_for_careful;
  static constexpr Duration kCarefulAgain = milliseconds(50);
  MonoTime careful_again{};  // no batch is sent to be scored alone before

  std::uint64_t run = 0;  // 0: no position yet
  std::uint32_t world = 1;
  bool repeat = false;
  DecidedKeys decided;                     // of the Position, and settled since
  std::optional<LoaderPosition> position;  // not taken yet
  std::map<std::uint64_t, EpochEnd> ends;  // by pass, until acked
  std::set<std::uint64_t> acked;
  bool final_given = false;
  std::uint64_t done_run = 0;  // newest run that its trainers said is done
  bool left = false;
  std::uint64_t step = 0;
  std::uint64_t late_verdicts = 0;
  std::vector<LoaderActions::Accepted> verdicts;
  GivenUp given_up;
  std::vector<Duration> late;
  std::vector<BatchKey> settled;
};

}  // namespace siftd
