// SPDX-License-Identifier: Apache-2.0
// The fuzz targets: functions that take any bytes and must come back, without a sanitizer's
// complaint and with every Demand fulfilled. fuzz_main.cc runs one under libFuzzer,
// findings_test.cc runs all over the findings of the past and the seeds. For tests only.
#pragma once

#include <array>

#include "tests/fuzz/bytes.h"

namespace siftd::fuzz {

// decode_targets.cc
void FuzzFrames(Input input);   // a whole message, as many frames as the bytes say
void FuzzHeaders(Input input);  // u8 type, then a header; payload frames are made to fit it
void FuzzTensors(Input input);  // descriptors and payload frames of a Candidates
void FuzzStatus(Input input);   // a StatusReply's header, shown as JSON

// artifact_targets.cc
void FuzzManifest(Input input);  // the manifest inside a scorer archive
void FuzzStaging(Input input);   // a publisher's Begin, Chunk and Commit in any order

// option_targets.cc
void FuzzPolicy(Input input);   // a JobSpec's header; what is in range decides a batch
void FuzzConfig(Input input);   // the worker's configuration text
void FuzzKeyFile(Input input);  // text of a key file, read as a secret and as a public one

// worker_target.cc, client_targets.cc: messages of many sessions, time, lost links
void FuzzWorkerCore(Input input);
void FuzzLoaderCore(Input input);
void FuzzTrainerCore(Input input);
void FuzzPublisherCore(Input input);

struct Target {
  const char* name;  // of its folders of seeds and findings
  void (*run)(Input);
};

inline constexpr std::array kTargets{
    Target{"frames", FuzzFrames},
    Target{"headers", FuzzHeaders},
    Target{"tensors", FuzzTensors},
    Target{"status", FuzzStatus},
    Target{"manifest", FuzzManifest},
    Target{"staging", FuzzStaging},
    Target{"policy", FuzzPolicy},
    Target{"config", FuzzConfig},
    Target{"key_file", FuzzKeyFile},
    Target{"worker_core", FuzzWorkerCore},
    Target{"loader_core", FuzzLoaderCore},
    Target{"trainer_core", FuzzTrainerCore},
    Target{"publisher_core", FuzzPublisherCore},
};

}  // namespace siftd::fuzz
