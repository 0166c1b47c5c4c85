// SPDX-License-Identifier: Apache-2.0
#include "worker/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siftd {
namespace {

using testing::HasSubstr;

TEST(Metrics, AreInPrometheusText) {
  StatusReply status;
  status.candidates = 100;
  status.kept = 30;
  status.dropped = 60;
  status.errors["BAD_TENSOR"] = 2;
  status.trainer_step = 50;
  status.model_step = 40;
  status.stages.push_back({"score", 7, 0.5, 0.25, 1});
  status.peers.push_back({Role::kLoader, "l", 0, 1, 2, 0.0});
  const std::string text = MetricsText(status);
  EXPECT_THAT(text, HasSubstr("# TYPE siftd_candidates_total counter\nsiftd_candidates_total 100"));
  EXPECT_THAT(text, HasSubstr("siftd_errors_total{code=\"BAD_TENSOR\"} 2"));
  EXPECT_THAT(text, HasSubstr("siftd_staleness_steps 10"));
  EXPECT_THAT(text, HasSubstr("siftd_stage_busy_seconds_total{stage=\"score\"} 0.5"));
  EXPECT_THAT(text, HasSubstr("siftd_peers{role=\"loader\"} 1"));
}

}  // namespace
}  // namespace siftd
