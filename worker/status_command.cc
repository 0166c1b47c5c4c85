// SPDX-License-Identifier: Apache-2.0
#include "worker/status_command.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <optional>

#include "pipeline/data/messages.h"
#include "pipeline/net/dealer_pool.h"
#include "pipeline/wire/codec.h"
#include "pipeline/wire/status_json.h"
#include "worker/exit_code.h"

namespace siftd {
namespace {

std::string Mebibytes(std::uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

void Print(const std::string& endpoint, const StatusReply& s) {
  const std::uint64_t rows = s.kept + s.dropped;
  std::printf("%s  worker '%s'  siftd %s  %s\n", endpoint.c_str(), s.worker_name.c_str(),
              s.version.c_str(), s.device.c_str());
  std::printf("  state       %s, up %.0f s, job '%s', run %" PRIu64 "%s\n",
              s.ready ? "ready" : s.not_ready_reason.c_str(), s.uptime_seconds, s.job.c_str(),
              s.run,
              s.mode == Mode::kVerdicts  ? ", verdicts"
              : s.mode == Mode::kSamples ? ", samples"
                                         : "");
  std::printf("  model       version %" PRIu64 " of step %" PRIu64
              ", in force for %.1f s; trainer at step %" PRIu64 "; %" PRIu64 " refused\n",
              s.model_version, s.model_step, s.model_age_seconds, s.trainer_step, s.model_refused);
  std::printf("  kept        %.1f %% of %" PRIu64 " rows (%" PRIu64 " unsifted, %" PRIu64
              " scored), %.0f rows/s of late\n",
              rows == 0 ? 0.0 : 100.0 * static_cast<double>(s.kept) / static_cast<double>(rows),
              rows, s.unsifted, s.scored, s.rows_per_second);
  std::printf("  held        %" PRIu64 " batches, %s of %s\n", s.held_batches,
              Mebibytes(s.held_bytes).c_str(), Mebibytes(s.budget_bytes).c_str());
  for (const StageStatus& stage : s.stages) {
    const double n = stage.batches == 0 ? 1.0 : static_cast<double>(stage.batches);
    std::printf("  stage       %-7s %8" PRIu64
                " batches, %8.3f ms busy, %8.3f ms waiting each, %" PRIu64 " queued\n",
                stage.stage.c_str(), stage.batches, 1e3 * stage.busy_seconds / n,
                1e3 * stage.wait_seconds / n, stage.queued);
  }
  for (const PeerStatus& p : s.peers) {
    if (p.role == Role::kMonitor) continue;
    std::printf("  peer        %-9s %u '%s', credit %" PRIu64 ", heard %.1f s ago\n",
                RoleName(p.role), p.index, p.name.c_str(), p.credit_batches, p.silent_seconds);
  }
  for (const auto& [code, count] : s.errors)
    std::printf("  errors      %s %" PRIu64 "\n", code.c_str(), count);
}

}  // namespace

int RunStatus(const StatusOptions& options) {
  const std::vector<std::string>& endpoints = options.endpoints;
  const Duration timeout = options.timeout;
  const bool json = options.json;
  DealerPool pool;
  Wakeup wakeup;
  if (!options.keys.empty()) {
    auto keys = ReadClientKeys(options.keys, options.worker_key);
    if (!keys.ok()) {
      std::fprintf(stderr, "siftd status: %s\n", keys.status().message().c_str());
      return kExitConfig;
    }
    pool.UseKeys(std::move(keys).value());
  }
  for (const std::string& endpoint : endpoints) {
    if (const auto added = pool.Add(endpoint); !added.ok()) {
      std::fprintf(stderr, "siftd status: %s\n", added.status().message().c_str());
      return kExitUsage;
    }
  }
  const SessionId session{WallNanos(), 1};
  Hello hello;
  hello.session = session;
  hello.role = Role::kMonitor;
  hello.name = "siftd status " + std::to_string(getpid());
  std::vector<bool> said(endpoints.size());
  std::vector<std::optional<StatusReply>> replies(endpoints.size());
  std::vector<std::string> refused(endpoints.size());  // why no answer will come
  std::size_t missing = endpoints.size();
  std::vector<bool> settled(endpoints.size());
  std::size_t waiting = endpoints.size();
  const auto settle = [&](std::size_t i) {
    if (!settled[i]) --waiting;
    settled[i] = true;
  };
  const MonoTime deadline = Now() + timeout;
  while (waiting > 0 && Now() < deadline) {
    for (std::size_t i = 0; i < endpoints.size(); ++i) {
      if (!said[i]) said[i] = pool.Send(i, Encode(hello)) == DealerPool::Sent::kSent;
    }
    pool.Poll(milliseconds(20), wakeup);
    for (const DealerPool::Refused& r : pool.TakeRefused()) {
      refused[r.worker] = r.why;
      if (r.for_good) settle(r.worker);
    }
    DealerPool::Received received;
    while (pool.Receive(&received)) {
      auto message = Decode(received.frames);
      if (!message.ok()) continue;
      if (std::holds_alternative<Welcome>(*message)) {
        [[maybe_unused]] const auto sent =
            pool.Send(received.worker, Encode(StatusRequest{session}));
      } else if (auto* reply = std::get_if<StatusReply>(&*message);
                 reply && !replies[received.worker]) {
        replies[received.worker] = std::move(*reply);
        --missing;
        settle(received.worker);
        [[maybe_unused]] const auto sent =  // its session need not wait for its silence
            pool.Send(received.worker, Encode(Goodbye{session, GoodbyeReason::kLeaving, 0}));
      } else if (const auto* error = std::get_if<ErrorMessage>(&*message); error && error->fatal) {
        refused[received.worker] = error->text + "; " + error->hint;
        settle(received.worker);
      }
    }
  }
  if (json) std::printf("[");
  bool first = true;
  for (std::size_t i = 0; i < endpoints.size(); ++i) {
    if (!replies[i] && !refused[i].empty()) {
      std::fprintf(stderr, "siftd status: %s: %s\n", endpoints[i].c_str(), refused[i].c_str());
      continue;
    }
    if (!replies[i]) {
      std::fprintf(stderr,
                   "siftd status: no answer from %s within %.1f s. Is a worker there? Same host: "
                   "check the port "
                   "that its ready line printed\n",
                   endpoints[i].c_str(), Seconds(timeout));
      continue;
    }
    if (json) {
      std::printf("%s{\"endpoint\": \"%s\", \"status\": %s}", first ? "" : ",\n",
                  endpoints[i].c_str(), StatusJson(*replies[i]).c_str());
    } else {
      Print(endpoints[i], *replies[i]);
    }
    first = false;
  }
  if (json) std::printf("]\n");
  return missing == 0 ? kExitOk : kExitUnreachable;
}

}  // namespace siftd
