// SPDX-License-Identifier: Apache-2.0
// Limits on foreign bytes, checked before anything is allocated or believed. proto/README.md prints
// this table.
#pragma once

#include <cstddef>
#include <cstdint>

namespace siftd::limits {

inline constexpr std::uint8_t kMajor = 1;  // protocol
inline constexpr char kMagic[4] = {'S', 'F', 'T', 'D'};
inline constexpr std::size_t kPreambleBytes = 8;
inline constexpr std::size_t kMaxFrames = 34;  // preamble, header, 32 payload frames
inline constexpr std::size_t kMaxTensors = 32;
inline constexpr std::size_t kMaxHeaderBytes = 16u << 20;
inline constexpr std::size_t kMaxHeaderFields = 100000;  // top level; a packed array is one
inline constexpr std::size_t kMaxRank = 16;              // dimensions of a tensor
inline constexpr std::size_t kMaxNameBytes = 256;
inline constexpr std::size_t kMaxJobBytes = 128;      // of a job's name
inline constexpr std::size_t kMaxTextBytes = 4096;    // of an error or a reason
inline constexpr std::size_t kMaxRows = 1u << 20;     // of a candidate batch
inline constexpr std::size_t kMaxKeys = 65536;        // of one Ack, Settled or Return
inline constexpr std::size_t kMaxIntervals = 200000;  // of one DecidedSet
inline constexpr std::size_t kMaxLoaders = 65536;     // of a job, and ranks: indices are below it
// And runs: 2^62 ns, the year 2116.
inline constexpr std::uint64_t kMaxIncarnation = 4611686018427387904;
inline constexpr std::size_t kMaxStateEntries = 65536;  // of a model manifest
inline constexpr std::size_t kMaxHistory = 1u << 20;
inline constexpr std::uint32_t kMinChunkBytes = 1024;
inline constexpr std::uint32_t kMaxChunkBytes = 64u << 20;

}  // namespace siftd::limits
