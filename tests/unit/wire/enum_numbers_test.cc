// SPDX-License-Identifier: Apache-2.0
// The enums of pipeline/data carry the numbers of proto/siftd/v1.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "pipeline/data/messages.h"
#include "siftd/v1/wire.pb.h"

namespace siftd {
namespace {

using Numbers = std::map<std::string, int>;

Numbers OfProto(const google::protobuf::EnumDescriptor* type) {
  Numbers numbers;
  for (int i = 0; i < type->value_count(); ++i) {
    if (type->value(i)->number() != 0) numbers[type->value(i)->name()] = type->value(i)->number();
  }
  return numbers;
}

template <typename E>
int N(E value) {
  return static_cast<int>(value);
}

TEST(EnumNumbers, DType) {
  EXPECT_EQ(OfProto(v1::DType_descriptor()), (Numbers{{"DTYPE_BOOL", N(DType::kBool)},
                                                      {"DTYPE_UINT8", N(DType::kUInt8)},
                                                      {"DTYPE_INT8", N(DType::kInt8)},
                                                      {"DTYPE_INT16", N(DType::kInt16)},
                                                      {"DTYPE_INT32", N(DType::kInt32)},
                                                      {"DTYPE_INT64", N(DType::kInt64)},
                                                      {"DTYPE_FLOAT16", N(DType::kFloat16)},
                                                      {"DTYPE_BFLOAT16", N(DType::kBFloat16)},
                                                      {"DTYPE_FLOAT32", N(DType::kFloat32)},
                                                      {"DTYPE_FLOAT64", N(DType::kFloat64)}}));
}

TEST(EnumNumbers, RoleModeOutcome) {
  EXPECT_EQ(OfProto(v1::Role_descriptor()), (Numbers{{"ROLE_LOADER", N(Role::kLoader)},
                                                     {"ROLE_TRAINER", N(Role::kTrainer)},
                                                     {"ROLE_PUBLISHER", N(Role::kPublisher)},
                                                     {"ROLE_MONITOR", N(Role::kMonitor)}}));
  EXPECT_EQ(OfProto(v1::Mode_descriptor()),
            (Numbers{{"MODE_SAMPLES", N(Mode::kSamples)}, {"MODE_VERDICTS", N(Mode::kVerdicts)}}));
  EXPECT_EQ(OfProto(v1::Outcome_descriptor()),
            (Numbers{{"OUTCOME_DECIDED", N(Outcome::kDecided)},
                     {"OUTCOME_UNSIFTED", N(Outcome::kUnsifted)},
                     {"OUTCOME_REJECTED", N(Outcome::kRejected)}}));
}

TEST(EnumNumbers, ReasonsAndModel) {
  EXPECT_EQ(OfProto(v1::ReturnReason_descriptor()),
            (Numbers{{"RETURN_DRAIN", N(ReturnReason::kDrain)},
                     {"RETURN_RANK_UNREACHABLE", N(ReturnReason::kRankUnreachable)},
                     {"RETURN_LANE_HUNG", N(ReturnReason::kLaneHung)},
                     {"RETURN_DEADLINE", N(ReturnReason::kDeadline)}}));
  EXPECT_EQ(OfProto(v1::GoodbyeReason_descriptor()),
            (Numbers{{"GOODBYE_DONE", N(GoodbyeReason::kDone)},
                     {"GOODBYE_LEAVING", N(GoodbyeReason::kLeaving)}}));
  EXPECT_EQ(OfProto(v1::ModelKind_descriptor()),
            (Numbers{{"MODEL_KIND_FULL", N(ModelKind::kFull)},
                     {"MODEL_KIND_DELTA", N(ModelKind::kDelta)},
                     {"MODEL_KIND_ARTIFACT", N(ModelKind::kArtifact)}}));
  EXPECT_EQ(OfProto(v1::ModelState_descriptor()),
            (Numbers{{"MODEL_STATE_RECEIVING", N(ModelState::kReceiving)},
                     {"MODEL_STATE_APPLIED", N(ModelState::kApplied)},
                     {"MODEL_STATE_REFUSED", N(ModelState::kRefused)}}));
  EXPECT_EQ(OfProto(v1::NonFinite_descriptor()),
            (Numbers{{"NON_FINITE_DROP", N(NonFinite::kDrop)},
                     {"NON_FINITE_KEEP", N(NonFinite::kKeep)}}));
}

TEST(EnumNumbers, ErrorCode) {
  EXPECT_EQ(OfProto(v1::ErrorCode_descriptor()),
            (Numbers{{"HELLO_REQUIRED", N(ErrorCode::kHelloRequired)},
                     {"SUPERSEDED", N(ErrorCode::kSuperseded)},
                     {"PROTOCOL_VERSION", N(ErrorCode::kProtocolVersion)},
                     {"MALFORMED", N(ErrorCode::kMalformed)},
                     {"NOT_ALLOWED", N(ErrorCode::kNotAllowed)},
                     {"JOB_MISMATCH", N(ErrorCode::kJobMismatch)},
                     {"RUN_OBSOLETE", N(ErrorCode::kRunObsolete)},
                     {"TOO_LARGE", N(ErrorCode::kTooLarge)},
                     {"CREDIT_EXCEEDED", N(ErrorCode::kCreditExceeded)},
                     {"BAD_TENSOR", N(ErrorCode::kBadTensor)},
                     {"NO_MODEL", N(ErrorCode::kNoModel)},
                     {"MODEL_MISMATCH", N(ErrorCode::kModelMismatch)},
                     {"MODEL_CORRUPT", N(ErrorCode::kModelCorrupt)},
                     {"MODEL_NOT_FINITE", N(ErrorCode::kModelNotFinite)},
                     {"ARTIFACT_REFUSED", N(ErrorCode::kArtifactRefused)},
                     {"SCORING_FAILED", N(ErrorCode::kScoringFailed)},
                     {"NON_FINITE_SCORE", N(ErrorCode::kNonFiniteScore)},
                     {"STALE", N(ErrorCode::kStale)},
                     {"DRAINING", N(ErrorCode::kDraining)},
                     {"BUDGET_TOO_SMALL", N(ErrorCode::kBudgetTooSmall)},
                     {"QUARANTINED", N(ErrorCode::kQuarantined)},
                     {"INTERNAL", N(ErrorCode::kInternal)}}));
}

}  // namespace
}  // namespace siftd
