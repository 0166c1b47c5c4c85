// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/delivery/job_simulation.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace siftd {
namespace {

constexpr std::uint64_t kEventsToFinish = 400000;  // after the last fault

std::uint64_t SampleId(const BatchKey& key, std::uint32_t row) {
  return ((key.loader * 1000 + key.pass) * 1000 + key.seq) * 1000 + row;
}

Candidates MakeBatch(const BatchKey& key, std::uint32_t rows) {
  Candidates c;
  c.key = key;
  c.epoch = static_cast<std::uint32_t>(key.pass);
  std::vector<std::uint64_t> x;
  for (std::uint32_t i = 0; i < rows; ++i) {
    c.sample_id.push_back(SampleId(key, i));
    x.push_back(~SampleId(key, i));
  }
  c.tensors.push_back({"x", DType::kInt64, {rows}, Frame::Copy(x.data(), x.size() * sizeof(x[0]))});
  return c;
}

}  // namespace

JobSimulation::JobSimulation(const JobOptions& options)
    : options_(options),
      random_(options.seed),
      workers_(options.workers),
      loaders_(options.loaders),
      trainers_(options.world),
      faults_left_(options.faults) {
  poison_ = options_.poison ? BatchKey{0, 0, options_.batches / 2} : BatchKey{~0u, 0, 0};
  for (std::uint32_t w = 0; w < options_.workers; ++w) StartWorker(w);
  StartRun();
  for (std::uint32_t i = 0; i < options_.loaders; ++i) StartLoader(i);
}

JobSimulation::~JobSimulation() = default;

void JobSimulation::StartWorker(std::uint32_t w) {
  WorkerCoreOptions o;
  o.name = "w" + std::to_string(w);
  o.incarnation = workers_[w].incarnation = ++clock_;
  o.max_batch_bytes = options_.rows * 8;
  o.budget_bytes = o.max_batch_bytes * options_.loaders * 2;
  o.artifact_sha256 = "a";
  workers_[w].core = std::make_unique<WorkerCore>(o);
  workers_[w].graph.clear();
}

void JobSimulation::StartLoader(std::uint32_t i) {
  LoaderCoreOptions o;
  o.incarnation = ++clock_;
  o.index = i;
  o.count = options_.loaders;
  Loader& loader = loaders_[i];
  loader = {};
  loader.links.resize(options_.workers);
  for (Link& link : loader.links) link.handle = next_handle_++;
  loader.core = std::make_unique<LoaderCore>(o, options_.workers, now_);
  Act(loader);
}

// All ranks, from their checkpoints; a new run.
void JobSimulation::StartRun() {
  run_ = ++clock_;
  for (std::uint32_t rank = 0; rank < options_.world; ++rank) StartRank(rank);
  PublisherCoreOptions o;
  o.run = run_;
  o.incarnation = ++clock_;
  publisher_ = {};
  publisher_.links.resize(options_.workers);
  for (Link& link : publisher_.links) link.handle = next_handle_++;
  publisher_.core = std::make_unique<PublisherCore>(o, options_.workers, now_);
  auto snapshot = std::make_shared<ModelSnapshot>();
  snapshot->begin.version = 1;
  snapshot->begin.kind = ModelKind::kFull;
  snapshot->begin.total_bytes = 6;
  snapshot->begin.chunk_bytes = 1;
  snapshot->begin.chunks = 6;
  snapshot->bytes = Frame::Copy("weight", 6);
  snapshot->crc32.assign(6, 0);
  publisher_.core->Offer(snapshot, now_);
  Act(publisher_);
  for (std::uint32_t i = 0; i < options_.loaders; ++i) {
    // A loader whose work was done ends, or has ended: whoever starts the trainers again starts it
    // again too.
    if (loaders_[i].core != nullptr && (loaders_[i].left || loaders_[i].core->done()))
      StartLoader(i);
  }
}

void JobSimulation::StartRank(std::uint32_t rank) {
  Trainer& t = trainers_[rank];
  t.now = t.checkpoint;
  t.finished = false;
  TrainerCoreOptions o;
  o.run = run_;
  o.incarnation = ++clock_;
  o.rank = rank;
  o.world = options_.world;
  o.loader_count = options_.loaders;
  o.job_spec.mode = Mode::kSamples;
  o.batch_size = options_.batch_size;
  o.window = options_.window;
  o.steps_per_epoch = lockstep() ? 0 : options_.steps;
  o.decided = t.now.decided;
  t.links.assign(options_.workers, {});
  for (Link& link : t.links) link.handle = next_handle_++;
  t.core = std::make_unique<TrainerCore>(o, options_.workers, now_);
  t.assembler =
      std::make_unique<Assembler>(AssemblerOptions{options_.batch_size, options_.drop_last});
  t.progress =
      TrainProgress(t.now.decided, t.now.half ? std::optional(t.now.half->key) : std::nullopt);
  std::vector<Selected> rows = t.now.carried;
  if (t.now.half) rows.insert(rows.begin(), *t.now.half);
  for (Selected& of_key : rows) {
    if (!t.assembler->Add(std::move(of_key)).ok()) Fail("rows of a state were refused");
  }
  if (!rows.empty()) t.core->OnConsumed({}, t.assembler->buffered_rows(), now_);
  Act(t);
}

template <typename Core>
void JobSimulation::Apply(Core& core, std::vector<Link>& links) {
  auto actions = core.TakeActions();
  for (const std::size_t w : actions.reconnect) {
    links[w] = {};
    links[w].handle = next_handle_++;
  }
  for (ClientSend& send : actions.sends) {
    if (links[send.worker].handle != 0)
      links[send.worker].to_worker.push_back(std::move(send.message));
  }
  if (!core.failure().ok()) Fail("a client gave up: " + core.failure().ToString());
  if constexpr (std::is_same_v<Core, TrainerCore>) {
    Trainer& t = *std::find_if(trainers_.begin(), trainers_.end(),
                               [&](const Trainer& x) { return x.core.get() == &core; });
    for (Selected& rows : actions.accepted) Accept(t, std::move(rows));
    for (TrainerActions::Ended& ended : actions.ended) {
      if (lockstep()) t.assembler->EndEpoch(ended.epoch);
      t.progress.PassesEnded(std::move(ended.passes), lockstep());
    }
  }
}

void JobSimulation::Act(Loader& loader) { Apply(*loader.core, loader.links); }
void JobSimulation::Act(Trainer& trainer) { Apply(*trainer.core, trainer.links); }
void JobSimulation::Act(Publisher& publisher) { Apply(*publisher.core, publisher.links); }

std::vector<std::vector<JobSimulation::Link>*> JobSimulation::AllLinks() {
  std::vector<std::vector<Link>*> all;
  for (Loader& l : loaders_) all.push_back(&l.links);
  for (Trainer& t : trainers_) all.push_back(&t.links);
  all.push_back(&publisher_.links);
  return all;
}

JobSimulation::Link* JobSimulation::LinkTo(std::uint32_t w, PeerHandle handle) {
  for (auto* links : AllLinks()) {
    if ((*links)[w].handle == handle) return &(*links)[w];
  }
  return nullptr;
}

void JobSimulation::ActWorker(std::uint32_t w) {
  WorkerActions actions = workers_[w].core->TakeActions();
  std::vector<PeerHandle> unreachable;
  for (WorkerActions::Send& send : actions.sends) {
    if (Link* link = LinkTo(w, send.to)) {
      link->to_client.push_back(std::move(send.message));
    } else {
      unreachable.push_back(send.to);
    }
  }
  for (ScoredBatchPtr& batch : actions.admitted) workers_[w].graph.push_back(std::move(batch));
  CheckWorker(w);
  for (const Message& work : actions.model_work) AnswerModel(w, work);
  for (const PeerHandle peer : unreachable) {
    if (Draw(2) == 0) workers_[w].core->OnUnreachable(peer, now_);
  }
  if (!actions.model_work.empty() || !unreachable.empty()) ActWorker(w);
}

void JobSimulation::AnswerModel(std::uint32_t w, const Message& work) {
  ModelAck ack;
  if (const auto* chunk = std::get_if<ModelChunk>(&work)) {
    ack = {
        {}, chunk->run, chunk->version, ModelState::kReceiving, chunk->index + 1, ErrorCode::kNone,
        ""};
  } else if (const auto* commit = std::get_if<ModelCommit>(&work)) {
    ack = {{}, commit->run, commit->version, ModelState::kApplied, 6, ErrorCode::kNone, ""};
  } else {
    return;
  }
  workers_[w].core->OnModelAck(ack, 0, "", now_);
}

bool JobSimulation::DeliverOne() {
  struct Pending {
    std::vector<Link>* links;
    std::uint32_t w;
    bool to_worker;
  };
  std::vector<Pending> pending;
  for (auto* links : AllLinks()) {
    for (std::uint32_t w = 0; w < options_.workers; ++w) {
      if (!(*links)[w].to_worker.empty()) pending.push_back({links, w, true});
      if (!(*links)[w].to_client.empty()) pending.push_back({links, w, false});
    }
  }
  if (pending.empty()) return false;
  const Pending& p = pending[Draw(pending.size())];
  Link& link = (*p.links)[p.w];
  auto& queue = p.to_worker ? link.to_worker : link.to_client;
  Message message = std::move(queue.front());
  queue.pop_front();
  if (p.to_worker) {
    workers_[p.w].core->OnMessage(link.handle, std::move(message), now_);
    ActWorker(p.w);
    return true;
  }
  const auto give = [&](auto& client) {
    if (&client.links != p.links) return;
    client.core->OnMessage(p.w, std::move(message), now_);
    Act(client);
  };
  for (Loader& l : loaders_) give(l);
  for (Trainer& t : trainers_) give(t);
  give(publisher_);
  return true;
}

bool JobSimulation::Feed(Loader& l, std::uint32_t index) {
  if (l.left) return false;
  if (const auto position = l.core->TakePosition()) {
    l.placed = true;
    l.run = position->run;
    l.pass = position->next_pass;
    l.repeat = position->repeat;
    l.seq = 0;
    l.ended = false;
    return true;
  }
  if (!l.placed) return false;
  if (l.core->done()) {
    l.core->Leave(now_);
    Act(l);
    l.left = true;
    if (l.run < run_) StartLoader(index);  // it was done with a run that has begun again since
    return true;
  }
  const std::uint64_t batches = l.repeat || l.pass < options_.passes ? options_.batches : 0;
  if (l.seq < batches && l.core->unsent() < 2) {
    const Status s = l.core->Offer(MakeBatch({index, l.pass, l.seq}, options_.rows), now_);
    if (!s.ok()) return false;  // a new position is about to be taken
    ++l.seq;
  } else if (l.seq == batches && !l.ended) {
    l.core->EndPass(l.pass, static_cast<std::uint32_t>(l.pass), batches,
                    !l.repeat && l.pass + 1 >= options_.passes, now_);
    l.ended = true;
  } else if (l.ended && l.core->PassAcked(l.pass) && (l.repeat || l.pass + 1 < options_.passes)) {
    ++l.pass;
    l.seq = 0;
    l.ended = false;
  } else {
    return false;
  }
  Act(l);
  return true;
}

bool JobSimulation::ScoreOne(std::uint32_t w) {
  auto& graph = workers_[w].graph;
  if (graph.empty()) return false;
  const std::size_t i = Draw(graph.size());
  ScoredBatchPtr batch = std::move(graph[i]);
  graph.erase(graph.begin() + static_cast<std::ptrdiff_t>(i));
  Candidates& c = batch->candidates;
  if (c.suspect && !graph.empty()) Fail("a suspect was not alone in the scorer");
  if (c.key == poison_ && !batch->pass_through) {
    Crash(w);
    return true;
  }
  const auto rows = static_cast<std::uint32_t>(c.sample_id.size());
  if (batch->pass_through) {
    batch->decision = UnsiftedDecision(rows);
  } else {
    batch->decision.outcome = siftd::Outcome::kDecided;
    batch->decision.rows = rows;
    const std::uint64_t mask = Draw(4) == 0 ? 0 : random_();
    for (std::uint32_t r = 0; r < rows; ++r) {
      if ((mask >> r) & 1) batch->decision.kept.push_back(r);
    }
  }
  for (const std::uint32_t r : batch->decision.kept) batch->kept_ids.push_back(c.sample_id[r]);
  if (!batch->decision.kept.empty())
    batch->kept_tensors.push_back(GatherRows(c.tensors[0], batch->decision.kept));
  c.tensors.clear();
  workers_[w].core->OnDecided(batch, now_);
  ActWorker(w);
  return true;
}

void JobSimulation::Tick() {
  now_ += milliseconds(20 + Draw(200));
  for (std::uint32_t w = 0; w < options_.workers; ++w) {
    workers_[w].core->OnTick(now_);
    ActWorker(w);
  }
  for (Loader& l : loaders_) {
    if (l.left) continue;
    l.core->OnTick(now_);
    Act(l);
  }
  for (Trainer& t : trainers_) {
    t.core->OnTick(now_);
    Act(t);
  }
  publisher_.core->OnTick(now_);
  Act(publisher_);
}

void JobSimulation::Cut(Link& link, std::uint32_t w) {
  const PeerHandle old =
      std::exchange(link.handle, Draw(2) == 0 ? 0 : next_handle_++);  // or reconnected unnoticed
  link.to_worker.clear();
  link.to_client.clear();
  if (old != 0 && Draw(2) == 0) {
    workers_[w].core->OnUnreachable(old, now_);
    ActWorker(w);
  }
}

void JobSimulation::Crash(std::uint32_t w) {
  StartWorker(w);
  for (auto* links : AllLinks()) {
    Link& link = (*links)[w];
    link = {};
    if (Draw(2) == 0) link.handle = next_handle_++;
  }
}

void JobSimulation::MakeFault() {
  --faults_left_;
  const std::uint64_t kind = Draw(options_.restarts ? 10 : 8);
  const auto w = static_cast<std::uint32_t>(Draw(options_.workers));
  const auto finished =
      std::any_of(trainers_.begin(), trainers_.end(), [](const Trainer& t) { return t.finished; });
  if (kind < 5) {
    auto all = AllLinks();
    auto* links = all[Draw(all.size())];
    ++faults_made_["cut"];
    Cut((*links)[w], w);
    const bool noticed = Draw(2) == 0;
    for (Loader& l : loaders_) {
      if (noticed && !l.left && &l.links == links) l.core->OnLinkLost(w, "cut", now_), Act(l);
    }
    for (Trainer& t : trainers_) {
      if (noticed && &t.links == links) t.core->OnLinkLost(w, "cut", now_), Act(t);
    }
  } else if (kind < 7) {
    ++faults_made_["worker died"];
    Crash(w);
  } else if (kind < 8) {
    ++faults_made_["loader restarted"];
    const auto i = static_cast<std::uint32_t>(Draw(options_.loaders));
    if (!finished && !loaders_[i].left) StartLoader(i);
  } else if (!finished) {
    ++faults_made_["trainers restarted"];
    StartRun();
  }
}

bool JobSimulation::Done() const {
  return std::all_of(trainers_.begin(), trainers_.end(),
                     [](const Trainer& t) { return t.finished; }) &&
         std::all_of(loaders_.begin(), loaders_.end(), [](const Loader& l) { return l.left; });
}

std::string JobSimulation::Run() {
  std::uint64_t since_fault = 0;
  while (failure_.empty() && !Done()) {
    ++events_;
    bool moved = false;
    switch (Draw(8)) {
      case 0: {
        const auto i = static_cast<std::uint32_t>(Draw(options_.loaders));
        moved = Feed(loaders_[i], i);
        break;
      }
      case 1:
        moved = ScoreOne(static_cast<std::uint32_t>(Draw(options_.workers)));
        break;
      case 2:
        moved = TrainOne(static_cast<std::uint32_t>(Draw(options_.world)));
        break;
      default:
        moved = DeliverOne();
    }
    if (!moved && Draw(4) == 0) Tick();
    if (Draw(60) == 0) Checkpoint();
    if (faults_left_ > 0 && Draw(80) == 0) {
      MakeFault();
      since_fault = 0;
    }
    if (++since_fault > kEventsToFinish && faults_left_ == 0) Fail("stuck: " + WhereItStands());
  }
  if (failure_.empty()) CheckEnd();
  return failure_;
}

}  // namespace siftd
