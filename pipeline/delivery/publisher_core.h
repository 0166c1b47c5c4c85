// SPDX-License-Identifier: Apache-2.0
// PublisherCore: sends weight versions to all workers, each at its own pace, newest only (a slow
// worker skips versions). A worker without a version of this run gets the full model first; a DELTA
// goes only to a worker that has the version just before it, any other gets the newest FULL version
// that it lacks. One thread only. Never touches a socket.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/delivery/client_links.h"

namespace siftd {

struct PublisherCoreOptions {
  std::string job = "default";
  std::string name;
  std::uint64_t run = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t chunk_bytes = 4u << 20;
  std::uint32_t window = 4;  // chunks in flight per worker
  Duration hello_deadline = milliseconds(5000);
  Duration ack_deadline = milliseconds(30000);
};

// One version, complete: `begin` (session empty) and the bytes that its manifest describes.
// Immutable once offered.
struct ModelSnapshot {
  ModelBegin begin;
  Frame bytes;
  std::vector<std::uint32_t> crc32;  // per chunk
};

struct PublisherActions {
  using Send = ClientSend;
  std::vector<std::size_t> reconnect;
  std::vector<Send> sends;
  struct Applied {
    std::size_t worker = 0;
    std::uint64_t version = 0;
    bool refused = false;
    ErrorCode code = ErrorCode::kNone;
    std::string text;
  };
  std::vector<Applied> applied;
  std::vector<std::string> log;
};

class PublisherCore {
 public:
  PublisherCore(PublisherCoreOptions options, std::size_t workers, MonoTime now);
  ~PublisherCore();

  std::size_t AddWorker(MonoTime now);
  // How texts call the worker; else "worker 0".
  void NameWorker(std::size_t w, const std::string& name);
  void OnMessage(std::size_t w, Message message, MonoTime now);
  void OnLinkLost(std::size_t w, const std::string& why, MonoTime now);
  // The connection does not come about: see ClientLinks.
  void OnRefused(std::size_t w, const std::string& why, bool for_good, MonoTime now);
  // The socket took no message: see ClientLinks.
  void OnNotSent(std::size_t w, MonoTime now);
  void OnTick(MonoTime now);
  // Replaces the version to send; transfers that already began run to their end.
  void Offer(std::shared_ptr<const ModelSnapshot> snapshot, MonoTime now);
  // Sent before the first version where a worker says needs_artifact and allows upload.
  void SetArtifact(std::shared_ptr<const ModelSnapshot> artifact, MonoTime now);
  void SetStep(std::uint64_t step);
  void Leave(MonoTime now);

  // Connected workers whose version in force is at least `version`.
  std::size_t applied(std::uint64_t version) const;
  std::size_t connected() const;
  std::string WaitingFor(MonoTime now) const;
  const Status& failure() const;

  PublisherActions TakeActions();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
