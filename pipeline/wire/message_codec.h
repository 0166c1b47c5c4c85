// SPDX-License-Identifier: Apache-2.0
// One From / To pair per message, in files by family. Internal to pipeline/wire.
#pragma once

#include "pipeline/wire/convert.h"

namespace siftd::wire {

// hello_codec.cc
Result<Hello> From(const v1::Hello& from, const Frames& frames);
Result<Welcome> From(const v1::Welcome& from, const Frames& frames);
void To(const Hello& from, v1::Hello* to, Frames* frames);
void To(const Welcome& from, v1::Welcome* to, Frames* frames);

// batch_codec.cc
Result<Candidates> From(const v1::Candidates& from, const Frames& frames);
Result<Selected> From(const v1::Selected& from, const Frames& frames);
Result<Verdict> From(const v1::Verdict& from, const Frames& frames);
void To(const Candidates& from, v1::Candidates* to, Frames* frames);
void To(const Selected& from, v1::Selected* to, Frames* frames);
void To(const Verdict& from, v1::Verdict* to, Frames* frames);

// delivery_codec.cc
Result<Credit> From(const v1::Credit& from, const Frames& frames);
Result<Ack> From(const v1::Ack& from, const Frames& frames);
Result<Settled> From(const v1::Settled& from, const Frames& frames);
Result<Return> From(const v1::Return& from, const Frames& frames);
Result<EpochEnd> From(const v1::EpochEnd& from, const Frames& frames);
Result<EpochAck> From(const v1::EpochAck& from, const Frames& frames);
Result<PositionRequest> From(const v1::PositionRequest& from, const Frames& frames);
Result<Position> From(const v1::Position& from, const Frames& frames);
void To(const Credit& from, v1::Credit* to, Frames* frames);
void To(const Ack& from, v1::Ack* to, Frames* frames);
void To(const Settled& from, v1::Settled* to, Frames* frames);
void To(const Return& from, v1::Return* to, Frames* frames);
void To(const EpochEnd& from, v1::EpochEnd* to, Frames* frames);
void To(const EpochAck& from, v1::EpochAck* to, Frames* frames);
void To(const PositionRequest& from, v1::PositionRequest* to, Frames* frames);
void To(const Position& from, v1::Position* to, Frames* frames);

// model_codec.cc
Result<ModelBegin> From(const v1::ModelBegin& from, const Frames& frames);
Result<ModelChunk> From(const v1::ModelChunk& from, const Frames& frames);
Result<ModelCommit> From(const v1::ModelCommit& from, const Frames& frames);
Result<ModelAck> From(const v1::ModelAck& from, const Frames& frames);
void To(const ModelBegin& from, v1::ModelBegin* to, Frames* frames);
void To(const ModelChunk& from, v1::ModelChunk* to, Frames* frames);
void To(const ModelCommit& from, v1::ModelCommit* to, Frames* frames);
void To(const ModelAck& from, v1::ModelAck* to, Frames* frames);

// status_codec.cc
Result<StatusRequest> From(const v1::Status& from, const Frames& frames);
Result<StatusReply> From(const v1::StatusReply& from, const Frames& frames);
Result<Heartbeat> From(const v1::Heartbeat& from, const Frames& frames);
Result<Drain> From(const v1::Drain& from, const Frames& frames);
Result<Goodbye> From(const v1::Goodbye& from, const Frames& frames);
Result<ErrorMessage> From(const v1::Error& from, const Frames& frames);
void To(const StatusRequest& from, v1::Status* to, Frames* frames);
void To(const StatusReply& from, v1::StatusReply* to, Frames* frames);
void To(const Heartbeat& from, v1::Heartbeat* to, Frames* frames);
void To(const Drain& from, v1::Drain* to, Frames* frames);
void To(const Goodbye& from, v1::Goodbye* to, Frames* frames);
void To(const ErrorMessage& from, v1::Error* to, Frames* frames);

}  // namespace siftd::wire
