// SPDX-License-Identifier: Apache-2.0
// siftd_fault_loader: a LoaderClient over made-up rows that writes down what it offers.
//
//   siftd_fault_loader --endpoint tcp://127.0.0.1:7070 --rows 512 --batch 16 --epochs 2 --events l0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "siftd/loader_client.h"
#include "tests/fault/peers/event_log.h"
#include "tests/fault/peers/rows.h"

namespace siftd::fault {
namespace {

struct Flags {
  LoaderOptions loader;
  std::uint64_t rows = 512;
  std::uint64_t batch = 16;
  std::uint64_t floats = 4;
  int start_timeout_ms = 60000;
  int timeout_ms = 120000;
  std::string events;
};

// Sample ids of this loader's shard, in an order of (seed, pass) alone.
std::vector<std::uint64_t> Shard(const Flags& flags, std::uint64_t pass) {
  std::vector<std::uint64_t> ids;
  for (std::uint64_t id = flags.loader.index; id < flags.rows; id += flags.loader.count)
    ids.push_back(id);
  std::mt19937_64 order(flags.loader.fingerprint.seed * 1'000'003 + pass);
  std::shuffle(ids.begin(), ids.end(), order);
  return ids;
}

// What of `ids` makes batch `seq`.
std::vector<std::uint64_t> Cut(const std::vector<std::uint64_t>& ids, std::uint64_t seq,
                               std::uint64_t batch) {
  const auto at = [&](std::uint64_t i) {
    return ids.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(i, ids.size()));
  };
  return {at(seq * batch), at((seq + 1) * batch)};
}

Status FeedPass(LoaderClient& loader, const LoaderPass& pass, const Flags& flags,
                const EventLog& log) {
  const std::vector<std::uint64_t> ids = Shard(flags, pass.number);
  const std::uint64_t batches = (ids.size() + flags.batch - 1) / flags.batch;
  std::uint64_t wanted = 0;
  for (std::uint64_t seq = 0; seq < batches; ++seq) wanted += pass.Wanted(seq) ? 1 : 0;
  log.Write(Event("pass")
                .Put("pass", pass.number)
                .Put("epoch", pass.epoch)
                .Put("batches", batches)
                .Put("wanted", wanted));
  for (std::uint64_t seq = 0; seq < batches; ++seq) {
    if (!pass.Wanted(seq)) continue;
    const std::vector<std::uint64_t> some = Cut(ids, seq, flags.batch);
    const BatchKey key{flags.loader.index, pass.number, seq};
    log.Write(Event("offer").Put("key", key).Put("epoch", pass.epoch).Put("ids", some));
    SIFTD_ASSIGN_OR_RETURN(const auto offered,
                           loader.Offer(seq, some, MakeRows(some, flags.floats)));
    if (offered == LoaderClient::Offered::kTaken) continue;
    const bool over = offered == LoaderClient::Offered::kOver;
    log.Write(Event(over ? "told_over" : "rewind").Put("key", key));
    return OkStatus();  // NextPass says where to go on
  }
  log.Write(Event("end_pass").Put("pass", pass.number));
  return loader.EndPass(batches);
}

Status Feed(const Flags& flags, const EventLog& log) {
  SIFTD_ASSIGN_OR_RETURN(const auto loader, LoaderClient::Connect(flags.loader));
  while (true) {
    SIFTD_ASSIGN_OR_RETURN(const auto pass, loader->NextPass());
    if (!pass) break;
    SIFTD_RETURN_IF_ERROR(FeedPass(*loader, *pass, flags, log));
  }
  const LoaderClient::Stats stats = loader->stats();
  log.Write(Event("over")
                .Put("offered", stats.offered_batches)
                .Put("settled", stats.settled_batches)
                .Put("outstanding", stats.outstanding));
  return OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  LoaderOptions& o = flags.loader;
  CLI::App app("A loader of the fault suite.");
  app.add_option("--endpoint", o.client.endpoints, "Of a worker; may be repeated")->required();
  app.add_option("--name", o.client.name);
  app.add_option("--index", o.index);
  app.add_option("--count", o.count, "Loaders of the job");
  app.add_option("--epochs", o.epochs, "0: until the trainers are done");
  app.add_option("--rows", flags.rows, "Of the data, over all loaders");
  app.add_option("--batch", flags.batch, "Rows")->check(CLI::PositiveNumber);
  app.add_option("--floats", flags.floats, "Of a row")->check(CLI::PositiveNumber);
  app.add_option("--seed", o.fingerprint.seed, "Of the order");
  app.add_option("--start-timeout-ms", flags.start_timeout_ms);
  app.add_option("--timeout-ms", flags.timeout_ms, "Without progress");
  app.add_option("--events", flags.events, "Event log");
  CLI11_PARSE(app, argc, argv);
  const EventLog log(flags.events);
  o.client.log = [&log](const std::string& line) { log.Write(Event("log").Put("text", line)); };
  o.fingerprint.data_size = flags.rows;
  o.fingerprint.batch_size = flags.batch;
  o.max_batch_bytes = flags.batch * flags.floats * sizeof(float);
  o.start_timeout = milliseconds(flags.start_timeout_ms);
  o.timeout = milliseconds(flags.timeout_ms);
  const Status status = Feed(flags, log);
  if (!status.ok()) log.Error(status);
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace siftd::fault

int main(int argc, char** argv) { return siftd::fault::Main(argc, argv); }
