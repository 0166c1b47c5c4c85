// SPDX-License-Identifier: Apache-2.0
// The delivery rules on the real cores, through thousands of seeded schedules of deliveries and
// faults.
#include <gtest/gtest.h>

#include <random>

#include "tests/sanitize/sanitized.h"
#include "tests/unit/delivery/job_simulation.h"

namespace siftd {
namespace {

JobOptions Random(std::uint64_t seed) {
  std::mt19937_64 random(seed * 7919 + 1);
  const auto draw = [&](std::uint64_t from, std::uint64_t to) {
    return from + random() % (to - from + 1);
  };
  JobOptions o;
  o.seed = seed;
  o.workers = static_cast<std::uint32_t>(draw(1, 3));
  o.loaders = static_cast<std::uint32_t>(draw(1, 3));
  o.passes = draw(1, 3);
  o.batches = draw(1, 6);
  o.rows = static_cast<std::uint32_t>(draw(1, 5));
  o.batch_size = static_cast<std::uint32_t>(draw(1, 7));
  o.window = static_cast<std::uint32_t>(draw(1, 3));
  o.faults = static_cast<int>(draw(0, 15));
  return o;
}

void RunAll(std::uint64_t first, std::uint64_t count, void (*adjust)(JobOptions&)) {
  count = Seeds(count);
  std::uint64_t duplicates = 0;
  std::map<std::string, int> faults;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    JobOptions o = Random(seed);
    adjust(o);
    JobSimulation job(o);
    ASSERT_EQ(job.Run(), "");
    duplicates += job.duplicates();
    for (const auto& [what, n] : job.faults_made()) faults[what] += n;
  }
  // The schedules reach what they are for.
  EXPECT_GT(duplicates, 0u);
  for (const char* what : {"cut", "worker died", "loader restarted", "trainers restarted"})
    EXPECT_GT(faults[what], 0);
}

TEST(Job, World1LosesAndRepeatsNothing) {
  RunAll(1, 4000, [](JobOptions&) {});
}

TEST(Job, World1CarriesRemaindersOverAndLosesAndRepeatsNothing) {
  RunAll(300001, 3000, [](JobOptions& o) { o.drop_last = true; });
}

TEST(Job, World2MakesItsStepsOnEveryRank) {
  RunAll(100001, 1500, [](JobOptions& o) {
    o.world = 2;
    o.loaders = std::max(o.loaders, 2u);
  });
}

TEST(Job, APoisonedBatchEndsUnsifted) {
  RunAll(200001, 1000, [](JobOptions& o) { o.poison = true; });
}

}  // namespace
}  // namespace siftd
