// SPDX-License-Identifier: Apache-2.0
// Rules 3 to 7 of the worker: a key is held once, decided, delivered until acked; credit and lanes.
#include <algorithm>
#include <cmath>

#include "pipeline/delivery/worker_core_impl.h"

namespace siftd {
namespace {

// Scores of one Settled at most: wire/limits.h, kMaxRows.
constexpr std::size_t kSettledScores = 1u << 20;

std::uint64_t PayloadBytes(const std::vector<Tensor>& tensors) {
  std::uint64_t bytes = 0;
  for (const Tensor& t : tensors) bytes += t.bytes.size();
  return bytes;
}

}  // namespace

void WorkerCore::Impl::On(WorkerSession& s, Candidates& m, MonoTime now) {
  const std::uint64_t bytes = PayloadBytes(m.tensors);
  const std::uint32_t loader = s.hello.loader_index;
  if (!s.in.Received(bytes)) {
    Refuse(s.peer, s.id, ErrorCode::kCreditExceeded,
           "Candidates " + ToString(m.key) + " without credit",
           "send only while the cumulative credit allows it (proto/README.md, Credit)", true);
    Cut(s.peer, "Candidates without credit", now);
    return;
  }
  if (m.key.loader != loader) {
    Refuse(s.peer, s.id, ErrorCode::kMalformed,
           "key.loader is " + std::to_string(m.key.loader) + "; this session's index is " +
               std::to_string(loader),
           "a loader sends keys of its own index", false);
    Breach(s.peer, "a key of another loader", now);
    return;
  }
  if (m.run > run && !s.hello.has_job_spec)
    AdoptRun(m.run);  // it learnt of the run from another worker
  if (m.run != run || job == nullptr) {
    // Of an older run: its loader is about to learn of this one. Of this run, but before its
    // trainer came: not to be lost.
    if (m.run == run) SendTo(s, Return{{}, run, {m.key}, ReturnReason::kRankUnreachable}, now);
    PumpCredit(now);
    return;
  }
  trainer_step = std::max(trainer_step, m.trainer_step);
  if (entries.contains(m.key)) {  // sent again: it joins
    ++counters.duplicates;
    PumpCredit(now);
    return;
  }
  const auto rows = static_cast<std::uint32_t>(m.sample_id.size());
  if (m.suspect && SuspectIsHere()) {  // else a death by that one would be blamed on this one, too
    SendTo(s, Return{{}, run, {m.key}, ReturnReason::kLaneHung}, now);
    PumpCredit(now);
    return;
  }
  counters.candidates += rows;
  auto batch = std::make_shared<ScoredBatch>();
  batch->job = job;
  // A decision that has to come out the same each time looks at nothing but its own message.
  batch->trainer_step = m.required_version != 0 ? m.trainer_step : trainer_step;
  batch->admitted = now;
  batch->pass_through = m.unscored || (m.required_version == 0 && job->stale_unsifted &&
                                       job->max_staleness_steps > 0 &&
                                       trainer_step > model_step + job->max_staleness_steps);
  if (bytes > s.batch_bytes || rows > options.max_rows) {
    batch->decision = RejectedDecision(
        rows, ErrorCode::kTooLarge,
        "batch " + ToString(m.key) + " has " + std::to_string(bytes) + " bytes and " +
            std::to_string(rows) + " rows; allowed: " + std::to_string(s.batch_bytes) + " bytes, " +
            std::to_string(options.max_rows) + " rows");
  }
  WorkerEntry& entry = entries[m.key];
  entry.batch = batch;
  entry.since = now;
  entry.bytes = bytes;
  entry.wants_scores = !m.prior_score.empty();
  lane_bytes[loader] += bytes;
  ++lane_batches[loader];
  batch->candidates = std::move(m);
  if (draining) {
    ReturnKeys({batch->candidates.key}, ReturnReason::kDrain, now);
    return;
  }
  if (Ahead(*batch)) {
    ahead.push_back(std::move(batch));
  } else {
    waiting.push_back(std::move(batch));
    AdmitWaiting(now);
  }
  PumpCredit(now);
}

bool WorkerCore::Impl::Ahead(const ScoredBatch& batch) const {
  const std::uint64_t required = batch.candidates.required_version;
  return required != 0 && (!model_ready || required > model_version);
}

// A version came into force: what waited for it goes on. What it left behind is rejected by select.
void WorkerCore::Impl::AdmitAhead(MonoTime now) {
  for (ScoredBatchPtr& batch : std::exchange(ahead, {}))
    (Ahead(*batch) ? ahead : waiting).push_back(std::move(batch));
  AdmitWaiting(now);
}

bool WorkerCore::Impl::SuspectIsHere() const {
  return suspect_in_graph || std::any_of(waiting.begin(), waiting.end(), [this](const auto& b) {
           const auto it = entries.find(b->candidates.key);
           return b->candidates.suspect && it != entries.end() && it->second.batch == b;
         });
}

// A suspect is scored with nothing else in the worker, so that a death points at it alone.
// What came on credit of the run before waits for this run's weights.
void WorkerCore::Impl::AdmitWaiting(MonoTime now) {
  if (!model_ready) return;
  while (!waiting.empty() && !suspect_in_graph) {
    const bool suspect = waiting.front()->candidates.suspect;
    if (suspect && in_graph > 0) return;
    ScoredBatchPtr batch = std::move(waiting.front());
    waiting.pop_front();
    const auto it = entries.find(batch->candidates.key);
    if (it == entries.end() || it->second.batch != batch) continue;  // returned meanwhile
    suspect_in_graph = suspect;
    Admit(std::move(batch), now);
  }
}

void WorkerCore::Impl::Admit(ScoredBatchPtr batch, MonoTime /*now*/) {
  ++in_graph;
  actions.admitted.push_back(std::move(batch));
}

void WorkerCore::OnDecided(const ScoredBatchPtr& batch, MonoTime now) {
  Impl& m = *impl_;
  if (m.in_graph > 0) --m.in_graph;
  if (batch->candidates.suspect) m.suspect_in_graph = false;
  const auto it = m.entries.find(batch->candidates.key);
  // Another run, or returned by its deadline: somebody else decides it.
  if (it != m.entries.end() && it->second.batch == batch)
    m.Decide(it->first, it->second, *batch, now);
  m.AdmitWaiting(now);
  m.PumpCredit(now);
}

void WorkerCore::Impl::Decide(const BatchKey& key, WorkerEntry& entry, ScoredBatch& batch,
                              MonoTime now) {
  Count(batch);
  recent.emplace_back(now, batch.decision.rows);
  WorkerSession* loader = Find(Role::kLoader, key.loader);
  if (loader != nullptr) ++loader->decided;
  if (verdicts()) {
    // Without a session the loader has taken the lease back already.
    if (loader != nullptr) {
      Verdict verdict;
      verdict.run = run;
      verdict.key = key;
      verdict.epoch = batch.candidates.epoch;
      verdict.decision = std::move(batch.decision);
      SendTo(*loader, std::move(verdict), now);
    }
    Erase(BatchKey(key));
    return;
  }
  const std::uint64_t kept_bytes = PayloadBytes(batch.kept_tensors);
  lane_bytes[key.loader] -= entry.bytes - std::min(entry.bytes, kept_bytes);
  entry.bytes = std::min(entry.bytes, kept_bytes);
  entry.decided = true;
  entry.selected.run = run;
  entry.selected.key = key;
  entry.selected.epoch = batch.candidates.epoch;
  entry.selected.decision = std::move(batch.decision);
  entry.selected.sample_id = std::move(batch.kept_ids);
  entry.selected.tensors = std::move(batch.kept_tensors);
  entry.batch.reset();
  const std::uint32_t rank = RankOf(key.loader);
  unsent[rank].push_back(key);
  PumpRank(rank, now);
}

void WorkerCore::Impl::Count(const ScoredBatch& batch) {
  const Decision& d = batch.decision;
  ++counters.decided_batches;
  counters.scored += batch.scored_rows;
  counters.kept += d.kept.size();
  counters.dropped += d.rows - d.kept.size();
  if (d.outcome == Outcome::kUnsifted) counters.unsifted += d.rows;
  if (d.outcome == Outcome::kRejected) {
    ++counters.rejected_batches;
    ++counters.errors[ErrorName(d.code)];
    actions.log.push_back("batch " + ToString(batch.candidates.key) + " rejected: " + d.text);
  }
  counters.non_finite_rows += static_cast<std::uint64_t>(
      std::count_if(d.score.begin(), d.score.end(), [](float s) { return !std::isfinite(s); }));
}

void WorkerCore::Impl::PumpRank(std::uint32_t rank, MonoTime now) {
  WorkerSession* trainer = Find(Role::kTrainer, rank);
  if (trainer == nullptr) return;
  std::deque<BatchKey>& queue = unsent[rank];
  while (!queue.empty() && trainer->out.CanSend()) {
    const auto it = entries.find(queue.front());
    queue.pop_front();
    if (it == entries.end()) continue;
    it->second.sent_in = trainer->id;
    trainer->out.Sent(it->second.bytes);
    SendTo(*trainer, it->second.selected, now);
  }
}

void WorkerCore::Impl::On(WorkerSession& s, Credit& m, MonoTime now) {
  s.out.Granted(m.batches, m.bytes);
  PumpRank(s.hello.rank, now);
}

void WorkerCore::Impl::On(WorkerSession& s, Ack& m, MonoTime now) {
  if (m.run != run) return;
  std::map<std::uint32_t, Settled> settled;
  const auto send = [&](std::uint32_t loader, Settled& message) {
    message.run = run;
    if (WorkerSession* l = Find(Role::kLoader, loader)) SendTo(*l, std::move(message), now);
    message = {};
  };
  for (std::size_t i = 0; i < m.keys.size(); ++i) {
    const BatchKey& key = m.keys[i];
    const auto it = entries.find(key);
    // A rank acks what was delivered to it; anything else is not its to settle.
    if (it == entries.end() || !it->second.decided || it->second.sent_in != s.id) continue;
    const std::vector<float> score = it->second.wants_scores
                                         ? std::move(it->second.selected.decision.score)
                                         : std::vector<float>();
    Erase(key);
    Settled& message = settled[key.loader];
    if (message.score.size() + score.size() > kSettledScores) send(key.loader, message);
    message.rows.resize(message.keys.size());
    message.keys.push_back(key);
    message.kept.push_back(m.kept[i]);
    message.rows.push_back(static_cast<std::uint32_t>(score.size()));
    message.score.insert(message.score.end(), score.begin(), score.end());
    if (message.score.empty()) message.rows.clear();
  }
  for (auto& [loader, message] : settled) send(loader, message);
  PumpCredit(now);
}

void WorkerCore::Impl::Erase(const BatchKey& key) {
  const auto it = entries.find(key);
  lane_bytes[key.loader] -= it->second.bytes;
  --lane_batches[key.loader];
  entries.erase(it);
}

void WorkerCore::Impl::ReturnKeys(const std::vector<BatchKey>& keys, ReturnReason reason,
                                  MonoTime now) {
  std::map<std::uint32_t, Return> by_loader;
  for (const BatchKey& key : keys) {
    Erase(key);
    by_loader[key.loader].keys.push_back(key);
  }
  for (auto& [loader, message] : by_loader) {
    message.run = run;
    message.reason = reason;
    if (WorkerSession* l = Find(Role::kLoader, loader)) SendTo(*l, std::move(message), now);
  }
}

std::uint64_t WorkerCore::Impl::Lane(const WorkerSession& loader) const {
  return options.budget_bytes / std::max<std::uint32_t>(1, loader.hello.loader_count);
}

bool WorkerCore::Impl::MayGrant(const WorkerSession& loader) {
  if (draining || run == 0 || job == nullptr || !model_ready) return false;
  if (verdicts()) return loader.hello.run == run;
  return loader.position_run == run &&
         Find(Role::kTrainer, RankOf(loader.hello.loader_index)) != nullptr;
}

void WorkerCore::Impl::PumpCredit(MonoTime now) {
  for (auto& [seat, s] : sessions) {
    if (seat.role != Role::kLoader || !MayGrant(s)) continue;
    const std::uint64_t held = lane_bytes[s.hello.loader_index];
    const std::uint64_t batches = lane_batches[s.hello.loader_index];
    const std::uint64_t lane = Lane(s);
    const std::uint64_t by_bytes = lane > held ? (lane - held) / s.batch_bytes : 0;
    const std::uint64_t by_window =
        options.loader_window > batches ? options.loader_window - batches : 0;
    const std::uint64_t allowed = std::min(by_bytes, by_window);
    // One Credit for a quarter of what the lane holds, not one for each batch that leaves it,
    // unless the bytes run out before the batches do.
    const std::uint64_t step = std::max<std::uint64_t>(1, (batches + allowed) / 4);
    const bool due =
        allowed >= s.in.outstanding() + step || s.in.outstanding_bytes() < s.batch_bytes;
    if (due && s.in.AllowOutstanding(allowed, s.batch_bytes)) {
      SendTo(s, Credit{{}, s.in.granted_batches(), s.in.granted_bytes()}, now);
    }
  }
}

}  // namespace siftd
