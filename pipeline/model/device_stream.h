// SPDX-License-Identifier: Apache-2.0
// DeviceStream: a queue of work of its own on a device, beside the one that PyTorch uses by itself.
// On the CPU there is none, and every call does nothing: one source for both. One thread at a time.
// It never waits for the whole device. Internal to pipeline/model.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>

#include <optional>

namespace siftd {

class DeviceStream {
 public:
  // kHigh: its kernels go before those of a trainer that shares the device.
  enum class Priority { kNormal, kHigh };

  DeviceStream(c10::Device device, Priority priority);

  // What this thread queues goes to the stream, while this lives.
  class Use {
   public:
    explicit Use(const DeviceStream& stream);

   private:
    std::optional<c10::StreamGuard> guard_;
  };

  // What is queued here from now on begins after what `other` holds now. Waits for nothing itself.
  void After(const DeviceStream& other);
  // Returns when what is queued here now is done. Throws c10::Error for work that failed.
  void Wait();
  // The same of the stream that PyTorch uses by itself: for what loading a module left there.
  static void WaitForDefault(c10::Device device);

 private:
  c10::Device device_;
  std::optional<c10::Stream> stream_;  // none on the CPU
};

}  // namespace siftd
