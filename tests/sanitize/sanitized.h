// SPDX-License-Identifier: Apache-2.0
// Whether this build has a sanitizer: everything takes several times as long, so tests with many
// seeds run fewer of them. For tests only.
#pragma once

#include <cstdint>

namespace siftd {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// `seeds`, or a tenth of them under a sanitizer.
constexpr std::uint64_t Seeds(std::uint64_t seeds) { return kSanitized ? seeds / 10 : seeds; }

}  // namespace siftd
