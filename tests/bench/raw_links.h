// SPDX-License-Identifier: Apache-2.0
// What siftd's links are measured against: bare ZeroMQ sockets, and a prototype of shared memory.
// Each Run sends frames of `bytes` bytes from a thread to another, each with a context of its own,
// and gives the rate at the receiver.
#pragma once

#include <string>

#include "link_clock.h"

namespace siftd::bench {

enum class RawPattern { kPushPull, kDealerRouter, kPushPullCurve };

// `endpoint`: tcp://127.0.0.1:* or ipc://PATH. The sender's bytes are shared, not copied.
LinkRate RunRaw(RawPattern pattern, const std::string& endpoint, const LinkLoad& load);

// A ring of slots in an anonymous memfd, whose descriptor goes over a Unix socket, as do the
// numbers of slots that are filled and free. The sender copies its bytes into a slot; the receiver
// uses them there. The prototype has no sessions, no credit and no headers.
LinkRate RunMemfd(const LinkLoad& load);

}  // namespace siftd::bench
