// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/artifact_codec.h"

#include <set>

#include "pipeline/wire/convert.h"
#include "pipeline/wire/limits.h"

namespace siftd {

Result<ArtifactManifest> ParseManifest(std::string_view bytes) {
  v1::ArtifactManifest from;
  if (bytes.size() > limits::kMaxHeaderBytes ||
      !from.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return InvalidArgument("siftd.manifest is no ArtifactManifest (" +
                           std::to_string(bytes.size()) + " bytes)");
  }
  if (from.format() != 1) {
    return InvalidArgument("siftd.manifest: format is " + std::to_string(from.format()) +
                           "; allowed: 1. Export the scorer with this version of siftd");
  }
  if (from.inputs_size() == 0 || from.columns_size() == 0) {
    return InvalidArgument(
        "siftd.manifest: " + std::string(from.inputs_size() == 0 ? "inputs" : "columns") +
        " is empty; allowed: at least one");
  }
  ArtifactManifest m;
  m.format = from.format();
  m.torch_version = from.torch_version();
  m.model = from.model();
  for (int i = 0; i < from.inputs_size(); ++i) {
    SIFTD_ASSIGN_OR_RETURN(TensorSpec spec, wire::From({"inputs", i}, from.inputs(i)));
    if (spec.shape.empty() || spec.shape[0] != -1) {
      return InvalidArgument("siftd.manifest: inputs[" + std::to_string(i) + "] is " +
                             ToString(spec) + "; allowed: a shape that begins with -1, the batch");
    }
    m.inputs.push_back(std::move(spec));
  }
  m.columns = wire::ToVector<std::string>(from.columns());
  SIFTD_RETURN_IF_ERROR(wire::CheckUnique("columns", {m.columns.begin(), m.columns.end()}));
  SIFTD_RETURN_IF_ERROR(wire::CheckAtMost(
      "state's length", static_cast<std::size_t>(from.state_size()), limits::kMaxStateEntries));
  std::set<std::string> names;
  for (int i = 0; i < from.state_size(); ++i) {
    const v1::StateEntry& e = from.state(i);
    StateEntry entry;
    entry.name = e.name();
    entry.archive_name = e.archive_name();
    const wire::Field field("state", i);
    SIFTD_ASSIGN_OR_RETURN(entry.dtype, wire::FromDType({field, ".dtype"}, e.dtype()));
    entry.shape = wire::ToVector<std::int64_t>(e.shape());
    SIFTD_RETURN_IF_ERROR(wire::SpecBytes(field, {entry.name, entry.dtype, entry.shape}).status());
    entry.is_buffer = e.is_buffer();
    if (!names.insert(entry.name).second) {
      return InvalidArgument("siftd.manifest: state names '" + entry.name + "' twice");
    }
    m.state.push_back(std::move(entry));
  }
  return m;
}

std::string SerializeManifest(const ArtifactManifest& m) {
  v1::ArtifactManifest to;
  to.set_format(m.format);
  to.set_torch_version(m.torch_version);
  to.set_model(m.model);
  for (const TensorSpec& spec : m.inputs) wire::To(spec, to.add_inputs());
  for (const std::string& column : m.columns) to.add_columns(column);
  for (const StateEntry& entry : m.state) {
    v1::StateEntry* e = to.add_state();
    e->set_name(entry.name);
    e->set_archive_name(entry.archive_name);
    e->set_dtype(static_cast<v1::DType>(entry.dtype));
    wire::FromVector(entry.shape, e->mutable_shape());
    e->set_is_buffer(entry.is_buffer);
  }
  return to.SerializeAsString();
}

}  // namespace siftd
