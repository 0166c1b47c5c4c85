// SPDX-License-Identifier: Apache-2.0
// Messages to frames and back (proto/README.md). Pure; any thread. Foreign bytes yield a Status
// that names the field, the value and the allowed range; never a crash, and nothing is allocated by
// a size that was not checked. Payload tensors keep the frames that they came in: no byte of them
// is copied either way.
#pragma once

#include <cstdint>
#include <string_view>

#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"

namespace siftd {

// frames: preamble, header, payload...; without a routing id.
Result<Message> Decode(const Frames& frames);

// Type byte of the frames' preamble, the header unread.
Result<std::uint8_t> PeekType(const Frames& frames);

// Free text that is too long or no UTF-8 is cut to what a peer accepts; everything else goes as it
// is.
Frames Encode(const Message& message);
// The same into `frames`, whose memory is used again.
void Encode(const Message& message, Frames* frames);

// Ends protobuf's own log on stderr, which foreign bytes could fill. For the whole process; call it
// once at its start.
void QuietProtobuf();

// "Candidates"
std::string_view MessageName(const Message& message);

}  // namespace siftd
