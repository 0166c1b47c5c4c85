// SPDX-License-Identifier: Apache-2.0
#include "pipeline/graph/sift_graph.h"

#include <oneapi/tbb/flow_graph.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>

#include <atomic>
#include <exception>
#include <string>
#include <utility>
#include <variant>

#include "pipeline/base/fault_point.h"
#include "pipeline/graph/group_pool.h"
#include "pipeline/graph/stage_clock.h"

namespace siftd {
namespace flow = oneapi::tbb::flow;
namespace {

struct TickToken {};
using BatcherInput = std::variant<ScoredBatchPtr, TickToken>;
using SelectInput = std::variant<ScoreGroupPtr, std::shared_ptr<std::function<void()>>>;

std::uint32_t Rows(const ScoredBatch& batch) {
  return static_cast<std::uint32_t>(batch.candidates.sample_id.size());
}

// Nothing of it needs the model: it has no place in a forward, or every row has its score already.
bool Unscored(const ScoredBatch& batch) {
  return batch.pass_through || batch.decision.outcome == Outcome::kRejected ||
         CountToScore(batch.candidates) == 0;
}

// A body never throws: an escaping exception would cancel the whole graph.
template <typename Body>
void Guard(ScoredBatch& batch, const char* stage, Body body) {
  try {
    body();
  } catch (const std::exception& e) {
    batch.decision = RejectedDecision(Rows(batch), ErrorCode::kInternal,
                                      std::string(stage) + " failed: " + e.what());
  }
}

// SAMPLES: the kept rows, each copied once. VERDICTS: no payload. Either way the candidates' bytes
// are let go of.
void Emit(ScoredBatch& batch) {
  Candidates& in = batch.candidates;
  if (batch.job->mode == Mode::kSamples && !batch.decision.kept.empty()) {
    const bool all = batch.decision.kept.size() == in.sample_id.size();
    for (const std::uint32_t row : batch.decision.kept) batch.kept_ids.push_back(in.sample_id[row]);
    for (Tensor& tensor : in.tensors) {
      batch.kept_tensors.push_back(all ? std::move(tensor)
                                       : GatherRows(tensor, batch.decision.kept));
    }
  }
  in.tensors.clear();
}

}  // namespace

Status SiftGraphOptions::Validate() const {
  if (max_inflight < 1 || max_inflight > 65536) {
    return InvalidArgument("max_inflight is " + std::to_string(max_inflight) +
                           "; allowed: [1, 65536]");
  }
  if (threads < 1 || threads > 256) {
    return InvalidArgument("graph threads is " + std::to_string(threads) + "; allowed: [1, 256]");
  }
  if (batcher.max_rows < 1) {
    return InvalidArgument("score_batch_rows is " + std::to_string(batcher.max_rows) +
                           "; allowed: >= 1");
  }
  return OkStatus();
}

struct SiftGraph::Impl {
  Impl(const SiftGraphOptions& o, ScorerPort* s, SelectFn f, DecidedPort* d)
      : options(o),
        scorer(s),
        select_fn(std::move(f)),
        decided(d),
        batcher(o.batcher, [this] { return groups.Take(); }),
        parallelism(oneapi::tbb::global_control::max_allowed_parallelism,
                    static_cast<std::size_t>(o.threads) + 1) {}

  // Not a function_node: a serial one lets its next body start before it has put its result, so two
  // results may change places. A multifunction_node puts from within the body.
  using DecodeNode = flow::multifunction_node<ScoredBatchPtr, std::tuple<BatcherInput>>;
  using BatcherNode =
      flow::multifunction_node<BatcherInput, std::tuple<ScoreGroupPtr, SelectInput>>;
  using ScoreNode = flow::async_node<ScoreGroupPtr, SelectInput>;
  using SelectNode = flow::multifunction_node<SelectInput, std::tuple<ScoredBatchPtr>>;

  const SiftGraphOptions options;
  ScorerPort* const scorer;
  const SelectFn select_fn;
  DecidedPort* const decided;
  GroupPool groups;
  Batcher batcher;                   // the batcher node's alone
  std::vector<ScoreGroupPtr> ready;  // the batcher node's alone; scratch
  std::atomic<std::int64_t> inflight{0};
  std::atomic<std::int64_t> before_batcher{0};  // admitted and not yet in the batcher
  std::atomic<std::int64_t> scoring{0};         // groups at the scorer
  std::atomic<bool> filling{false};             // the batcher holds a group that may have to go
  std::atomic<bool> closed{false};
  StageClock decode_clock{"decode"};
  StageClock score_clock{"score"};
  StageClock select_clock{"select"};
  StageClock emit_clock{"emit"};

  // On a single core oneTBB would start no thread of its own.
  oneapi::tbb::global_control parallelism;
  oneapi::tbb::task_arena arena;
  std::unique_ptr<flow::graph> graph;
  std::unique_ptr<flow::queue_node<ScoredBatchPtr>> entry;
  std::unique_ptr<flow::limiter_node<ScoredBatchPtr, int>> limiter;
  std::unique_ptr<DecodeNode> decode;
  std::unique_ptr<BatcherNode> batch;
  std::unique_ptr<flow::queue_node<ScoreGroupPtr>> score_queue;
  std::unique_ptr<ScoreNode> score;
  std::unique_ptr<SelectNode> select;
  std::unique_ptr<flow::function_node<ScoredBatchPtr, int>> emit;

  void Build();
  void Decode(const ScoredBatchPtr& batch, DecodeNode::output_ports_type& out);
  void Batch(const BatcherInput& in, BatcherNode::output_ports_type& out);
  void Score(const ScoreGroupPtr& group, ScoreNode::gateway_type& gateway);
  void Select(const SelectInput& in, SelectNode::output_ports_type& out);
  int Finish(const ScoredBatchPtr& batch);
};

void SiftGraph::Impl::Build() {
  // No slot is reserved for a thread that waits: all work is done by the arena's own threads.
  arena.initialize(options.threads, 0);
  arena.execute([this] {
    graph = std::make_unique<flow::graph>();
    flow::graph& g = *graph;
    entry = std::make_unique<flow::queue_node<ScoredBatchPtr>>(g);
    limiter = std::make_unique<flow::limiter_node<ScoredBatchPtr, int>>(g, options.max_inflight);
    decode = std::make_unique<DecodeNode>(
        g, flow::serial, [this](const ScoredBatchPtr& b, auto& out) { Decode(b, out); });
    batch = std::make_unique<BatcherNode>(
        g, flow::serial, [this](const BatcherInput& in, auto& out) { Batch(in, out); });
    score_queue = std::make_unique<flow::queue_node<ScoreGroupPtr>>(g);
    score = std::make_unique<ScoreNode>(
        g, flow::serial,
        [this](const ScoreGroupPtr& group, ScoreNode::gateway_type& gw) { Score(group, gw); });
    select = std::make_unique<SelectNode>(
        g, flow::serial, [this](const SelectInput& in, auto& out) { Select(in, out); });
    emit = std::make_unique<flow::function_node<ScoredBatchPtr, int>>(
        g, flow::serial, [this](const ScoredBatchPtr& b) { return Finish(b); });
    flow::make_edge(*entry, *limiter);
    flow::make_edge(*limiter, *decode);
    flow::make_edge(flow::output_port<0>(*decode), *batch);
    flow::make_edge(flow::output_port<0>(*batch), *score_queue);
    flow::make_edge(flow::output_port<1>(*batch), *select);
    flow::make_edge(*score_queue, *score);
    flow::make_edge(*score, *select);
    flow::make_edge(flow::output_port<0>(*select), *emit);
    flow::make_edge(*emit, limiter->decrementer());
  });
}

void SiftGraph::Impl::Decode(const ScoredBatchPtr& b, DecodeNode::output_ports_type& out) {
  const MonoTime begin = Now();
  if (!b->pass_through && b->decision.outcome != Outcome::kRejected) {
    Guard(*b, "decode", [&] {
      if (const Status status = scorer->CheckInputs(b->candidates.tensors); !status.ok()) {
        b->decision =
            RejectedDecision(Rows(*b),
                             status.code() == Code::kFailedPrecondition ? ErrorCode::kNoModel
                                                                        : ErrorCode::kBadTensor,
                             status.message());
      } else if (CountToScore(b->candidates) == 0) {
        b->scores.names = scorer->Columns();  // a policy that was not named depends on them
      }
    });
  }
  decode_clock.Leave(begin - b->admitted, Now() - begin);
  std::get<0>(out).try_put(b);
}

void SiftGraph::Impl::Batch(const BatcherInput& in, BatcherNode::output_ports_type& out) {
  ready.clear();
  if (const auto* b = std::get_if<ScoredBatchPtr>(&in)) {
    before_batcher.fetch_sub(1);
    if (Unscored(**b)) {
      ScoreGroupPtr group = groups.Take();
      group->batches.push_back(*b);
      select_clock.Enter();
      std::get<1>(out).try_put(SelectInput(std::move(group)));
    } else {
      batcher.Add(*b, Now(), &ready);
    }
  } else {
    batcher.Tick(Now(), &ready);
  }
  // Nobody else to wait for and an idle scorer: waiting would only add delay.
  // `filling` is set before `scoring` is read: either this body sees the scorer idle, or the scorer
  // sees that something waits.
  filling.store(!batcher.empty());
  if (ready.empty() && !batcher.empty() && before_batcher.load() == 0 && scoring.load() == 0) {
    batcher.Flush(&ready);
    filling.store(false);
  }
  for (ScoreGroupPtr& group : ready) {
    scoring.fetch_add(1);
    for (std::size_t i = 0; i < group->batches.size(); ++i) score_clock.Enter();
    std::get<0>(out).try_put(group);
  }
  ready.clear();
}

void SiftGraph::Impl::Score(const ScoreGroupPtr& group, ScoreNode::gateway_type& gateway) {
  gateway.reserve_wait();
  scorer->Submit(group, [this, &gateway](ScoreGroupPtr done) {
    for (const ScoredBatchPtr& b : done->batches) {
      score_clock.Leave(b->score_wait, b->score_busy);
      select_clock.Enter();
    }
    gateway.try_put(SelectInput(std::move(done)));
    if (scoring.fetch_sub(1) == 1 && filling.load())
      batch->try_put(TickToken{});  // idle now: what waits may go
    gateway.release_wait();
  });
}

void SiftGraph::Impl::Select(const SelectInput& in, SelectNode::output_ports_type& out) {
  if (const auto* f = std::get_if<std::shared_ptr<std::function<void()>>>(&in)) {
    (**f)();
    return;
  }
  const ScoreGroupPtr& group = std::get<ScoreGroupPtr>(in);
  for (const ScoredBatchPtr& b : group->batches) {
    const MonoTime begin = Now();
    Guard(*b, "select", [&] { select_fn(*b); });
    select_clock.Leave({}, Now() - begin);
    emit_clock.Enter();
    std::get<0>(out).try_put(b);
  }
  groups.Give(group);
}

int SiftGraph::Impl::Finish(const ScoredBatchPtr& b) {
  const MonoTime begin = Now();
  Guard(*b, "emit", [&] { Emit(*b); });
  emit_clock.Leave({}, Now() - begin);
  inflight.fetch_sub(1);
  FaultPoint("emit");
  decided->Decided(b);
  return 1;
}

SiftGraph::SiftGraph(const SiftGraphOptions& options, ScorerPort* scorer, SelectFn select,
                     DecidedPort* decided)
    : impl_(std::make_unique<Impl>(options, scorer, std::move(select), decided)) {
  impl_->Build();
}

SiftGraph::~SiftGraph() { Close(); }

void SiftGraph::Submit(ScoredBatchPtr batch) {
  if (impl_->closed) {
    batch->decision = RejectedDecision(Rows(*batch), ErrorCode::kDraining, "the worker is ending");
    impl_->decided->Decided(std::move(batch));
    return;
  }
  impl_->inflight.fetch_add(1);
  impl_->before_batcher.fetch_add(1);
  impl_->decode_clock.Enter();
  impl_->entry->try_put(batch);
}

void SiftGraph::Tick() {
  if (!impl_->closed && impl_->filling.load()) impl_->batch->try_put(TickToken{});
}

void SiftGraph::RunInSelect(std::function<void()> f) {
  if (!impl_->closed) {
    impl_->select->try_put(SelectInput(std::make_shared<std::function<void()>>(std::move(f))));
  }
}

std::vector<StageStatus> SiftGraph::Stages() const {
  return {impl_->decode_clock.Read(), impl_->score_clock.Read(), impl_->select_clock.Read(),
          impl_->emit_clock.Read()};
}

std::size_t SiftGraph::inflight() const {
  return static_cast<std::size_t>(std::max<std::int64_t>(0, impl_->inflight.load()));
}

void SiftGraph::Close() {
  if (impl_->closed.exchange(true)) return;
  impl_->arena.execute([this] {
    // A group that is being filled goes when the scorer falls idle, so this ends once all is
    // decided.
    do {
      impl_->batch->try_put(TickToken{});
      impl_->graph->wait_for_all();
    } while (impl_->inflight.load() > 0);
  });
}

}  // namespace siftd
