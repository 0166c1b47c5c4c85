// SPDX-License-Identifier: Apache-2.0
#include "worker/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/net/key_folder.h"

namespace siftd {
namespace {

using testing::HasSubstr;

TEST(WorkerConfig, DefaultsAreValid) {
  const WorkerConfig config;
  EXPECT_EQ(config.Validate(), OkStatus());
}

TEST(WorkerConfig, TextSetsWhatItNamesAndLeavesTheRest) {
  WorkerConfig config;
  config.lanes = 3;
  ASSERT_TRUE(ParseConfig("max_rows: 9 policy { loss_cdf { keep: 0.25 } }", "t", &config).ok());
  EXPECT_EQ(config.lanes, 3u);
  EXPECT_EQ(config.max_rows, 9u);
  EXPECT_DOUBLE_EQ(std::get<LossCdfOptions>(config.policy.kind).beta, 3.0);
}

TEST(WorkerConfig, ErrorsHaveLineColumnAndField) {
  WorkerConfig config;
  EXPECT_THAT(ParseConfig("lanes: 1\nlanez: 2\n", "file", &config).message(),
              testing::AllOf(HasSubstr("file:2:"), HasSubstr("lanez")));
  EXPECT_THAT(ParseConfig("lanes: \"x\"", "file", &config).message(), HasSubstr("file:1:"));
}

TEST(WorkerConfig, TextRoundTrips) {
  WorkerConfig config;
  config.http = "127.0.0.1:0";
  config.policy.kind = TopKOptions{0.25};
  config.policy.modifiers.interrupt = 4;
  WorkerConfig again;
  ASSERT_TRUE(ParseConfig(ConfigText(config), "t", &again).ok());
  EXPECT_EQ(ConfigText(again), ConfigText(config));
  EXPECT_EQ(again.policy, config.policy);
}

TEST(WorkerConfig, RefusalsNameFieldValueAndRange) {
  WorkerConfig config;
  config.liveness_ms = 2000;
  EXPECT_EQ(config.Validate().message(), "liveness_ms is 2000; allowed: [2001, 3600000]");
  config = WorkerConfig();
  config.log_level = "loud";
  EXPECT_EQ(config.Validate().message(),
            "log_level is 'loud'; allowed: debug, info, warning, error");
  config = WorkerConfig();
  config.policy.kind = UniformOptions{2};
  EXPECT_EQ(config.Validate().message(), "policy: uniform.keep is 2; allowed: (0, 1]");
}

TEST(WorkerConfig, CheaperScoresAreChecked) {
  WorkerConfig config;
  ASSERT_TRUE(ParseConfig("score_dtype: \"bf16\" score_resolution: 16", "t", &config).ok());
  EXPECT_EQ(config.Validate(), OkStatus());
  EXPECT_EQ(config.score_resolution, 16u);
  config.score_dtype = "fp8";
  EXPECT_EQ(config.Validate().message(), "score_dtype is 'fp8'; allowed: float32, bf16");
  config = WorkerConfig();
  config.score_resolution = 4;
  EXPECT_EQ(config.Validate().message(), "score_resolution is 4; allowed: 0, or [8, 4096]");
  config = WorkerConfig();
  config.score_optimize = true;
  EXPECT_EQ(config.Validate(), OkStatus());
  config.score_dtype = "bf16";
  EXPECT_EQ(config.Validate().message(),
            "score_optimize is true; allowed: false with score_dtype bf16");
  config.device = "cuda:1";
  EXPECT_EQ(config.Validate().message(),
            "score_optimize is true; allowed: false with device cuda:1");
}

TEST(WorkerConfig, KeysComeInPairsAndReplacePlaintext) {
  WorkerConfig config;
  config.key_file = "k";
  EXPECT_THAT(config.Validate().message(), HasSubstr("client_keys ''; allowed: both"));
  config.client_keys = "c";
  EXPECT_EQ(config.Validate(), OkStatus());
  config.insecure_plaintext = true;
  EXPECT_EQ(config.Validate().message(),
            "insecure_plaintext is true; allowed: false with key_file");
  EXPECT_THAT(CheckKeyFiles(config).message(), HasSubstr("cannot read key file 'k'"));
}

TEST(WorkerConfig, KeyFilesAreCheckedAndNeverShown) {
  const KeyFolder keys;
  WorkerConfig config;
  config.key_file = keys.worker_secret();
  config.client_keys = keys.client_keys();
  EXPECT_EQ(CheckKeyFiles(config), OkStatus());
  const CurveKeys worker = ReadSecretKeyFile(keys.worker_secret()).value();
  EXPECT_THAT(ConfigText(config), testing::AllOf(HasSubstr(keys.worker_secret()),
                                                 testing::Not(HasSubstr(worker.secret_key))));
}

TEST(WorkerConfig, HttpStaysOnThisHostUnlessItIsMeantNotTo) {
  WorkerConfig config;
  for (const char* own : {"127.0.0.1:9100", "localhost:0", "[::1]:0", "127.1.2.3:1"}) {
    config.http = own;
    EXPECT_EQ(config.Validate(), OkStatus()) << own;
  }
  for (const char* open :
       {"0.0.0.0:9100", "10.0.0.1:0", ":9100", "[::]:1", "1127.0.0.1:1", "localhost.evil.org:1"}) {
    config.http = open;
    config.http_public = false;
    EXPECT_THAT(config.Validate().message(),
                testing::AllOf(HasSubstr("http is '" + std::string(open) + "'"),
                               HasSubstr("http_public: true")));
    config.http_public = true;
    EXPECT_EQ(config.Validate(), OkStatus()) << open;
  }
}

TEST(WorkerConfig, APinnedDigestIsOne) {
  WorkerConfig config;
  config.artifact_sha256 = std::string(64, 'a');
  EXPECT_EQ(config.Validate(), OkStatus());
  for (const std::string& bad :
       {std::string(63, 'a'), std::string(64, 'A'), std::string(64, 'g')}) {
    config.artifact_sha256 = bad;
    EXPECT_THAT(config.Validate().message(), HasSubstr("64 lower-case hexadecimal digits"));
  }
}

TEST(WorkerConfig, LimitsOfPeersHaveRanges) {
  WorkerConfig config;
  config.max_peers = 0;
  EXPECT_EQ(config.Validate().message(), "max_peers is 0; allowed: [1, 65536]");
  config = WorkerConfig();
  config.max_hellos = 0;
  EXPECT_EQ(config.Validate().message(), "max_hellos is 0; allowed: [1, 1000000]");
  config = WorkerConfig();
  config.max_breaches = 0;
  EXPECT_EQ(config.Validate().message(), "max_breaches is 0; allowed: [1, 1000000]");
}

TEST(WorkerConfig, BackendPythonNeedsAFactory) {
  WorkerConfig config;
  config.backend = "python";
  for (const char* good :
       {"m:f", "a.b_2.c:make", "sifting:Scorers.make", "_m:_f", "mod\xc3\xa8le:f"}) {
    config.python_factory = good;
    EXPECT_EQ(config.Validate(), OkStatus()) << good;
  }
  for (const char* bad : {"", "m", "m:", ":f", "m:f:g", "m.:f", ".m:f", "m..n:f", "m:f()", "2m:f",
                          "m:2f", "m f:g", "m/n:f", "m-n:f", "m:f."}) {
    config.python_factory = bad;
    EXPECT_EQ(config.Validate().message(),
              "python_factory is '" + std::string(bad) +
                  "'; allowed: module:function, as in 'train.sifting:make_scorer'");
  }
}

TEST(WorkerConfig, BackendsAndTheirFieldsDoNotMix) {
  WorkerConfig config;
  config.backend = "onnx";
  EXPECT_EQ(config.Validate().message(), "backend is 'onnx'; allowed: jit, python");
  config.backend = "jit";
  config.python_factory = "m:f";
  EXPECT_EQ(config.Validate().message(),
            "python_factory is 'm:f'; allowed: only with backend python");
  config.backend = "python";
  config.python = "";
  EXPECT_EQ(config.Validate().message(), "python is ''; allowed: a Python interpreter");
  config.python = "python3";
  config.artifact = "scorer.pt";
  EXPECT_EQ(config.Validate().message(),
            "artifact is 'scorer.pt'; with backend python the scorer is what python_factory makes; "
            "allowed: ''");
  config.artifact = "";
  config.allow_artifact_upload = true;
  EXPECT_EQ(config.Validate().message(),
            "allow_artifact_upload is true; with backend python the scorer is what python_factory "
            "makes; allowed: false");
}

TEST(WorkerConfig, TheBackendIsReadFromTextAndShown) {
  WorkerConfig config;
  ASSERT_EQ(ParseConfig("backend: \"python\" python_factory: \"m:f\" python: \"/opt/python\"", "t",
                        &config),
            OkStatus());
  EXPECT_EQ(config.Validate(), OkStatus());
  EXPECT_THAT(ConfigText(config), testing::AllOf(HasSubstr("backend: \"python\"\n"),
                                                 HasSubstr("python_factory: \"m:f\"\n"),
                                                 HasSubstr("python: \"/opt/python\"\n")));
  EXPECT_THAT(ConfigText(WorkerConfig()), HasSubstr("backend: \"jit\"\n"));
}

}  // namespace
}  // namespace siftd
