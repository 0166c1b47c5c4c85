// SPDX-License-Identifier: Apache-2.0
// A loader in C++: feeds the rows of a CSV file (numbers, the last column is the class) to a pool
// of workers. The trainer is another process: cpp_trainer.cc, or siftd.StreamLoader in Python.
//
//   siftd_cpp_loader --csv digits.csv --endpoint tcp://127.0.0.1:7070 --index 0 --count 2 --epochs
//   3
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
#include <random>
#include <sstream>

#include "siftd/loader_client.h"

namespace {

struct Rows {
  std::vector<float> x;  // [n, width]
  std::vector<std::int64_t> y;
  std::size_t width = 0;
};

// Empty on a file that is no such table.
Rows ReadCsv(const std::string& path) {
  Rows rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::vector<float> values;
    for (std::string field; std::getline(fields, field, ',');) values.push_back(std::stof(field));
    if (values.size() < 2 || (rows.width != 0 && values.size() != rows.width + 1)) return {};
    rows.width = values.size() - 1;
    rows.y.push_back(static_cast<std::int64_t>(values.back()));
    rows.x.insert(rows.x.end(), values.begin(), values.end() - 1);
  }
  return rows;
}

template <typename T>
siftd::Tensor MakeTensor(std::string name, siftd::DType dtype, std::vector<std::int64_t> shape,
                         const std::vector<T>& values) {
  return {std::move(name), dtype, std::move(shape),
          siftd::Frame::Copy(values.data(), values.size() * sizeof(T))};
}

// A trainer's batch is a tuple (x, y): its fields are named "0" and "1".
std::vector<siftd::Tensor> Gather(const Rows& rows, const std::vector<std::uint64_t>& ids) {
  std::vector<float> x;
  std::vector<std::int64_t> y;
  for (const std::uint64_t id : ids) {
    const auto row = rows.x.begin() + static_cast<std::ptrdiff_t>(id * rows.width);
    x.insert(x.end(), row, row + static_cast<std::ptrdiff_t>(rows.width));
    y.push_back(rows.y[id]);
  }
  const auto n = static_cast<std::int64_t>(ids.size());
  return {MakeTensor("0", siftd::DType::kFloat32, {n, static_cast<std::int64_t>(rows.width)}, x),
          MakeTensor("1", siftd::DType::kInt64, {n}, y)};
}

// The order is a function of (seed, pass) alone, so that a batch key always names the same rows.
std::vector<std::uint64_t> Shard(std::size_t rows, const siftd::LoaderOptions& options,
                                 std::uint64_t pass) {
  std::vector<std::uint64_t> ids;
  for (std::uint64_t id = options.index; id < rows; id += options.count) ids.push_back(id);
  std::mt19937_64 order(options.fingerprint.seed * 1'000'003 + pass);
  std::shuffle(ids.begin(), ids.end(), order);
  return ids;
}

siftd::Status Feed(const Rows& rows, std::size_t batch, const siftd::LoaderOptions& options) {
  SIFTD_ASSIGN_OR_RETURN(const auto loader, siftd::LoaderClient::Connect(options));
  while (true) {
    SIFTD_ASSIGN_OR_RETURN(const auto pass, loader->NextPass());
    if (!pass) break;
    const std::vector<std::uint64_t> ids = Shard(rows.y.size(), options, pass->number);
    std::uint64_t seq = 0;
    for (std::size_t at = 0; at < ids.size(); at += batch, ++seq) {
      if (!pass->Wanted(seq)) continue;
      const std::vector<std::uint64_t> some(
          ids.begin() + static_cast<std::ptrdiff_t>(at),
          ids.begin() + static_cast<std::ptrdiff_t>(std::min(at + batch, ids.size())));
      SIFTD_ASSIGN_OR_RETURN(const auto offered, loader->Offer(seq, some, Gather(rows, some)));
      if (offered != siftd::LoaderClient::Offered::kTaken) break;
    }
    SIFTD_RETURN_IF_ERROR(loader->EndPass(seq));
  }
  const auto stats = loader->stats();
  std::printf("offered %llu batches, settled %llu\n",
              static_cast<unsigned long long>(stats.offered_batches),
              static_cast<unsigned long long>(stats.settled_batches));
  return siftd::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  siftd::LoaderOptions options;
  std::string csv;
  std::size_t batch = 64;
  CLI::App app("Feeds the rows of a CSV file to siftd's workers.");
  app.add_option("--csv", csv, "numbers, the last column is the class")->required();
  app.add_option("--endpoint", options.client.endpoints, "of a worker; may be repeated")
      ->required();
  app.add_option("--keys", options.client.keys, "secret key file, for workers with keys")
      ->envname("SIFTD_KEYS");
  app.add_option("--worker-key", options.client.worker_key,
                 "their public key file; default: worker.key beside --keys")
      ->envname("SIFTD_WORKER_KEY");
  app.add_option("--index", options.index, "of this loader")->capture_default_str();
  app.add_option("--count", options.count, "loaders of the job")->capture_default_str();
  app.add_option("--epochs", options.epochs, "0: until the trainer is done")->capture_default_str();
  app.add_option("--rescore-every", options.rescore_every, "score a row on every n-th pass only")
      ->capture_default_str();
  app.add_option("--batch", batch, "rows")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--seed", options.fingerprint.seed, "of the order")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  options.client.log = [](const std::string& line) { std::cerr << line << "\n"; };

  const Rows rows = ReadCsv(csv);
  if (rows.y.empty()) {
    std::cerr << csv << ": no table of numbers\n";
    return 2;
  }
  options.fingerprint.data_size = rows.y.size();
  options.fingerprint.batch_size = batch;
  if (const siftd::Status status = Feed(rows, batch, options); !status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  return 0;
}
