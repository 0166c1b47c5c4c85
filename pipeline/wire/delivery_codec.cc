// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd::wire {
namespace {

Result<std::vector<BatchKey>> FromKeys(const v1::Keys& from) {
  const auto n = static_cast<std::size_t>(from.loader_size());
  SIFTD_RETURN_IF_ERROR(CheckAtMost("keys' length", n, limits::kMaxKeys));
  if (from.pass_size() != from.loader_size() || from.seq_size() != from.loader_size()) {
    return Refuse("keys' arrays",
                  std::to_string(n) + " and " + std::to_string(from.pass_size()) + " and " +
                      std::to_string(from.seq_size()) + " long",
                  "equal lengths");
  }
  std::vector<BatchKey> keys(n);
  for (std::size_t i = 0; i < n; ++i) {
    const int at = static_cast<int>(i);
    SIFTD_RETURN_IF_ERROR(CheckLoader({"keys.loader", at}, from.loader(at)));
    keys[i] = {from.loader(at), from.pass(at), from.seq(at)};
  }
  return keys;
}

void ToKeys(const std::vector<BatchKey>& from, v1::Keys* to) {
  for (const BatchKey& key : from) {
    to->add_loader(key.loader);
    to->add_pass(key.pass);
    to->add_seq(key.seq);
  }
}

// Ack and Settled say the same in opposite directions.
template <typename Out, typename In>
Result<Out> FromKept(const In& from) {
  Out m;
  SIFTD_ASSIGN_OR_RETURN(m.keys, FromKeys(from.keys()));
  if (static_cast<std::size_t>(from.kept_size()) != m.keys.size()) {
    return Refuse("kept's length", std::to_string(from.kept_size()),
                  "the number of keys, " + std::to_string(m.keys.size()));
  }
  m.session = From(from.session());
  m.run = from.run();
  m.kept = ToVector<std::uint32_t>(from.kept());
  return m;
}

template <typename In, typename Out>
void ToKept(const In& from, Out* to) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  ToKeys(from.keys, to->mutable_keys());
  FromVector(from.kept, to->mutable_kept());
}

}  // namespace

Result<Credit> From(const v1::Credit& from, const Frames& /*frames*/) {
  return Credit{From(from.session()), from.batches(), from.bytes()};
}

void To(const Credit& from, v1::Credit* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_batches(from.batches);
  to->set_bytes(from.bytes);
}

Result<Ack> From(const v1::Ack& from, const Frames& /*frames*/) { return FromKept<Ack>(from); }
void To(const Ack& from, v1::Ack* to, Frames* /*frames*/) { ToKept(from, to); }

Result<Settled> From(const v1::Settled& from, const Frames& /*frames*/) {
  SIFTD_ASSIGN_OR_RETURN(auto m, FromKept<Settled>(from));
  if (from.rows_size() != 0 && static_cast<std::size_t>(from.rows_size()) != m.keys.size()) {
    return Refuse("rows' length", std::to_string(from.rows_size()),
                  "0 or the number of keys, " + std::to_string(m.keys.size()));
  }
  const auto scores = static_cast<std::size_t>(from.score_size());
  SIFTD_RETURN_IF_ERROR(CheckAtMost("score's length", scores, limits::kMaxRows));
  std::uint64_t rows = 0;
  for (const std::uint32_t n : from.rows()) rows += n;
  if (rows != scores) {
    return Refuse("score's length", std::to_string(scores),
                  "the sum of rows, " + std::to_string(rows));
  }
  m.rows = ToVector<std::uint32_t>(from.rows());
  m.score = ToVector<float>(from.score());
  return m;
}

void To(const Settled& from, v1::Settled* to, Frames* /*frames*/) {
  ToKept(from, to);
  FromVector(from.rows, to->mutable_rows());
  FromVector(from.score, to->mutable_score());
}

Result<Return> From(const v1::Return& from, const Frames& /*frames*/) {
  Return m;
  if (from.reason() < v1::RETURN_DRAIN || from.reason() > v1::RETURN_DEADLINE) {
    return Refuse("reason", std::to_string(from.reason()), "1 to 4 (enum ReturnReason)");
  }
  SIFTD_ASSIGN_OR_RETURN(m.keys, FromKeys(from.keys()));
  m.session = From(from.session());
  m.run = from.run();
  m.reason = static_cast<ReturnReason>(from.reason());
  return m;
}

void To(const Return& from, v1::Return* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  ToKeys(from.keys, to->mutable_keys());
  to->set_reason(static_cast<v1::ReturnReason>(from.reason));
}

Result<EpochEnd> From(const v1::EpochEnd& from, const Frames& /*frames*/) {
  SIFTD_RETURN_IF_ERROR(CheckLoader("loader", from.loader()));
  return EpochEnd{From(from.session()), from.run(),     from.loader(), from.pass(),
                  from.epoch(),         from.batches(), from.final()};
}

void To(const EpochEnd& from, v1::EpochEnd* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_loader(from.loader);
  to->set_pass(from.pass);
  to->set_epoch(from.epoch);
  to->set_batches(from.batches);
  to->set_final(from.final);
}

Result<EpochAck> From(const v1::EpochAck& from, const Frames& /*frames*/) {
  SIFTD_RETURN_IF_ERROR(CheckLoader("loader", from.loader()));
  return EpochAck{From(from.session()), from.run(), from.loader(), from.pass()};
}

void To(const EpochAck& from, v1::EpochAck* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_loader(from.loader);
  to->set_pass(from.pass);
}

Result<PositionRequest> From(const v1::PositionRequest& from, const Frames& /*frames*/) {
  SIFTD_RETURN_IF_ERROR(CheckLoader("loader", from.loader()));
  return PositionRequest{From(from.session()), from.run(), from.loader()};
}

void To(const PositionRequest& from, v1::PositionRequest* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_loader(from.loader);
}

Result<Position> From(const v1::Position& from, const Frames& /*frames*/) {
  Position m;
  SIFTD_RETURN_IF_ERROR(CheckLoader("loader", from.loader()));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("world", from.world(), limits::kMaxLoaders));
  SIFTD_ASSIGN_OR_RETURN(m.decided, From(from.decided()));
  m.session = From(from.session());
  m.run = from.run();
  m.loader = from.loader();
  m.world = from.world();
  m.repeat = from.repeat();
  return m;
}

void To(const Position& from, v1::Position* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_loader(from.loader);
  To(from.decided, to->mutable_decided());
  to->set_world(from.world);
  to->set_repeat(from.repeat);
}

}  // namespace siftd::wire
