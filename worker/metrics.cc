// SPDX-License-Identifier: Apache-2.0
#include "worker/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <utility>
#include <vector>

namespace siftd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class Families {
 public:
  void Add(const std::string& name, const std::string& help, MetricType type, double value,
           std::vector<ClientMetric::Label> labels = {}) {
    MetricFamily& family = by_name_[name];
    family.name = name;
    family.help = help;
    family.type = type;
    ClientMetric metric;
    metric.label = std::move(labels);
    if (type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family.metric.push_back(std::move(metric));
  }
  void Counter(const std::string& name, const std::string& help, std::uint64_t value,
               std::vector<ClientMetric::Label> labels = {}) {
    Add(name, help, MetricType::Counter, static_cast<double>(value), std::move(labels));
  }
  void Gauge(const std::string& name, const std::string& help, double value,
             std::vector<ClientMetric::Label> labels = {}) {
    Add(name, help, MetricType::Gauge, value, std::move(labels));
  }
  std::string Text() const {
    std::vector<MetricFamily> list;
    for (const auto& [name, family] : by_name_) list.push_back(family);
    return prometheus::TextSerializer().Serialize(list);
  }

 private:
  std::map<std::string, MetricFamily> by_name_;
};

}  // namespace

std::string MetricsText(const StatusReply& s) {
  Families f;
  f.Gauge("siftd_build_info", "Version of the worker.", 1, {{"version", s.version}});
  f.Counter("siftd_candidates_total", "Candidate rows received.", s.candidates);
  f.Counter("siftd_kept_rows_total", "Rows kept.", s.kept);
  f.Counter("siftd_dropped_rows_total", "Rows dropped, those of rejected batches included.",
            s.dropped);
  f.Counter("siftd_unsifted_rows_total", "Rows kept without a decision of the policy.", s.unsifted);
  f.Counter("siftd_scored_rows_total", "Rows that the model scored.", s.scored);
  f.Counter("siftd_decided_batches_total", "Candidate batches decided.", s.decided_batches);
  f.Counter("siftd_rejected_batches_total", "Candidate batches rejected.", s.rejected_batches);
  f.Counter("siftd_duplicate_batches_total", "Candidate batches received again while held.",
            s.duplicates);
  f.Counter("siftd_non_finite_rows_total", "Rows whose score was NaN or infinite.",
            s.non_finite_rows);
  f.Counter("siftd_model_refused_total", "Model versions refused.", s.model_refused);
  for (const auto& [code, count] : s.errors) {
    f.Counter("siftd_errors_total", "Errors told to peers, by code.", count, {{"code", code}});
  }
  f.Gauge("siftd_ready", "1 when a run's model is in force.", s.ready ? 1 : 0);
  f.Gauge("siftd_model_version", "Model version in force.", static_cast<double>(s.model_version));
  f.Gauge("siftd_model_step", "Trainer step of the model in force.",
          static_cast<double>(s.model_step));
  f.Gauge("siftd_model_age_seconds", "Since the model came into force.", s.model_age_seconds);
  f.Gauge("siftd_trainer_step", "Newest trainer step heard of.",
          static_cast<double>(s.trainer_step));
  f.Gauge("siftd_staleness_steps", "Trainer step less model step.",
          static_cast<double>(s.trainer_step - std::min(s.trainer_step, s.model_step)));
  f.Gauge("siftd_keep_ratio", "Kept rows / decided rows.",
          s.kept + s.dropped == 0
              ? 0
              : static_cast<double>(s.kept) / static_cast<double>(s.kept + s.dropped));
  f.Gauge("siftd_rows_per_second", "Decided rows per second of late.", s.rows_per_second);
  f.Gauge("siftd_held_batches", "Candidate batches held.", static_cast<double>(s.held_batches));
  f.Gauge("siftd_held_bytes", "Payload bytes held.", static_cast<double>(s.held_bytes));
  f.Gauge("siftd_budget_bytes", "Payload bytes that may be held.",
          static_cast<double>(s.budget_bytes));
  std::map<Role, int> peers;
  for (const PeerStatus& p : s.peers) ++peers[p.role];
  for (const Role role : {Role::kLoader, Role::kTrainer, Role::kPublisher}) {
    f.Gauge("siftd_peers", "Sessions in force.", peers[role], {{"role", RoleName(role)}});
  }
  for (const StageStatus& stage : s.stages) {
    const std::vector<ClientMetric::Label> label{{"stage", stage.stage}};
    f.Counter("siftd_stage_batches_total", "Batches that left a stage.", stage.batches, label);
    f.Add("siftd_stage_busy_seconds_total", "Time a stage worked.", MetricType::Counter,
          stage.busy_seconds, label);
    f.Add("siftd_stage_wait_seconds_total", "Time batches waited before a stage.",
          MetricType::Counter, stage.wait_seconds, label);
    f.Gauge("siftd_stage_queued_batches", "Batches in or before a stage.",
            static_cast<double>(stage.queued), label);
  }
  return f.Text();
}

}  // namespace siftd
