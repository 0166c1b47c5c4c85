// SPDX-License-Identifier: Apache-2.0
// What a drop-in's Hello says of it, as LoaderCore's options; a link's own log.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "pipeline/data/messages.h"
#include "pipeline/delivery/loader_core.h"
#include "siftd/client_options.h"

namespace siftd {

constexpr std::size_t kUnsentMost = 2;  // batches that wait for credit

inline ClientOptions WithLog(ClientOptions client, std::function<void(const std::string&)> log) {
  client.log = std::move(log);
  return client;
}

inline LoaderCoreOptions VerdictsOptions(const Hello& hello) {
  LoaderCoreOptions o;
  o.mode = Mode::kVerdicts;
  o.job = hello.job;
  o.name = hello.name;
  o.incarnation = hello.session.incarnation;
  o.index = hello.loader_index;
  o.count = hello.loader_count;
  o.run = hello.run;
  o.job_spec = hello.job_spec;
  o.signature = hello.signature;
  o.max_batch_bytes = hello.max_batch_bytes;
  o.fingerprint = hello.fingerprint;
  return o;
}

}  // namespace siftd
