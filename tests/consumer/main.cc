// SPDX-License-Identifier: Apache-2.0
// Uses each client of the installed library: no worker is there, so each ends at its deadline.
#include <cstdio>

#include "siftd/loader_client.h"
#include "siftd/model_publisher.h"
#include "siftd/trainer_client.h"

namespace {

bool Expect(const char* what, const siftd::Status& status, siftd::Code code) {
  std::printf("%s: %s\n", what, status.ToString().c_str());
  return status.code() == code;
}

}  // namespace

int main() {
  const siftd::ClientOptions client{.endpoints = {"ipc:///tmp/siftd-nobody-is-here"}};
  siftd::LoaderOptions loader_options{.client = client};
  loader_options.start_timeout = siftd::milliseconds(50);
  siftd::TrainerOptions trainer_options{.client = client};
  trainer_options.timeout = siftd::milliseconds(50);

  const auto loader = siftd::LoaderClient::Connect(loader_options);
  const auto trainer = siftd::TrainerClient::Connect(trainer_options);
  const auto publisher = siftd::ModelPublisher::Connect({.client = client, .run = 1});
  if (!loader.ok() || !trainer.ok() || !publisher.ok()) return 1;
  bool good = Expect("loader", (*loader)->NextPass().status(), siftd::Code::kDeadlineExceeded);
  good &= Expect("trainer", (*trainer)->Next().status(), siftd::Code::kDeadlineExceeded);
  good &= Expect("publisher", (*publisher)->WaitApplied(1, 1, siftd::milliseconds(50)),
                 siftd::Code::kDeadlineExceeded);
  good &= Expect("no endpoints", siftd::LoaderClient::Connect({}).status(),
                 siftd::Code::kInvalidArgument);
  return good ? 0 : 1;
}
