// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/train_progress.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

RowSpan Span(const BatchKey& key, bool last) {
  RowSpan span;
  span.key = key;
  span.rows = 1;
  span.last = last;
  return span;
}

EpochEnd End(std::uint32_t loader, std::uint64_t pass, std::uint64_t batches) {
  return {{}, 1, loader, pass, 0, batches, false};
}

TEST(TrainProgress, AHalfTrainedKeyIsNotToComeAgain) {
  TrainProgress p;
  p.Trained({Span({0, 0, 0}, true), Span({0, 0, 1}, false)});
  ASSERT_TRUE(p.half());
  EXPECT_EQ(p.half()->seq, 1u);
  EXPECT_TRUE(DecidedKeys(p.Decided()).Contains({0, 0, 1}));
  EXPECT_FALSE(DecidedKeys(p.Decided()).Contains({0, 0, 2}));
  p.Trained({Span({0, 0, 1}, true)});
  EXPECT_FALSE(p.half());
}

TEST(TrainProgress, AKeyOverSeveralBatchesStaysHalfUntilItsLastRow) {
  TrainProgress p;
  p.Trained({Span({0, 0, 0}, false)});
  p.Trained({Span({0, 0, 0}, false)});
  EXPECT_TRUE(p.half());
  p.Trained({Span({0, 0, 0}, true), Span({0, 0, 1}, true)});
  EXPECT_FALSE(p.half());
}

TEST(TrainProgress, ARestoredHalfKeyStaysHalfUntilItsRowsAreTrained) {
  TrainProgress before;
  before.Trained({Span({0, 0, 0}, false)});
  TrainProgress p(before.Decided(), before.half());
  ASSERT_TRUE(p.half());
  p.Trained({Span({0, 0, 0}, true)});
  EXPECT_FALSE(p.half());
  EXPECT_TRUE(DecidedKeys(p.Decided()).Contains({0, 0, 0}));
}

// A bug once: an epoch with rows carried over stayed open, so that a resumed run had its end again.
TEST(TrainProgress, EpochsCloseTogetherOnceHandedOut) {
  TrainProgress p;
  p.Empty({0, 0, 0});
  p.PassesEnded({End(0, 0, 1), End(1, 0, 1)}, true);
  EXPECT_TRUE(p.Decided().next_pass.empty());
  p.EpochOver();
  EXPECT_EQ(p.Decided().next_pass, (std::vector<std::uint64_t>{1, 1})) << "1's key is carried over";
  p.Trained({Span({1, 0, 0}, false)});
  EXPECT_EQ(p.half(), (BatchKey{1, 0, 0}));
  p.Trained({Span({1, 0, 0}, true), Span({1, 1, 0}, true)});
  EXPECT_FALSE(p.half());
  EXPECT_EQ(p.Decided().next_pass, (std::vector<std::uint64_t>{1, 1}));
}

TEST(TrainProgress, AtTheLastBatchTheEpochsEndIsStillToCome) {
  TrainProgress p;
  p.PassesEnded({End(0, 0, 1)}, true);
  p.Trained({Span({0, 0, 0}, true)});
  EXPECT_TRUE(p.Decided().next_pass.empty());
  EXPECT_TRUE(DecidedKeys(p.Decided()).Complete(0, 0, 1));
  p.EpochOver();
  EXPECT_EQ(p.Decided().next_pass, (std::vector<std::uint64_t>{1}));
}

TEST(TrainProgress, MixedPassesCloseByThemselves) {
  TrainProgress p;
  p.PassesEnded({End(0, 1, 1)}, false);
  p.Trained({Span({0, 1, 0}, true)});
  p.Empty({0, 0, 0});
  p.PassesEnded({End(0, 0, 1)}, false);
  EXPECT_EQ(p.Decided().next_pass, (std::vector<std::uint64_t>{2}));
}

}  // namespace
}  // namespace siftd
