// SPDX-License-Identifier: Apache-2.0
// The counter-based coin: u(seed, epoch, sample_id, occurrence) in [0, 1), the same on every
// worker, in whatever order batches arrive and however often they are sent again. Philox4x32-10
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). proto/README.md holds the
// test vectors. Pure; any thread.
#pragma once

#include <array>
#include <cstdint>

namespace siftd {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key);

// 53 random bits.
double Coin(std::uint64_t seed, std::uint32_t epoch, std::uint64_t sample_id,
            std::uint32_t occurrence);

}  // namespace siftd
