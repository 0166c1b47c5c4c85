// SPDX-License-Identifier: Apache-2.0
// Policy and JobSpec as they cross the wire and as the worker's configuration names them. An unset
// optional field takes the default of data/job.h; a keep fraction becomes beta = 1 / keep - 1.
// Ranges are pipeline/select's to check. Pure; any thread.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/data/job.h"
#include "siftd/v1/policy.pb.h"
#include "siftd/v1/wire.pb.h"

namespace siftd::wire {

Result<PolicyOptions> From(const v1::Policy& from);
void To(const PolicyOptions& from, v1::Policy* to);
Result<JobSpec> From(const v1::JobSpec& from);
void To(const JobSpec& from, v1::JobSpec* to);

}  // namespace siftd::wire
