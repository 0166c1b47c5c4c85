// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/cheap_forward.h"

#include <ATen/autocast_mode.h>

#include <algorithm>
#include <string>
#include <unordered_map>

#include "pipeline/model/memory_reader.h"
#include "pipeline/model/tensor_convert.h"

namespace siftd {
namespace {

constexpr std::int64_t kTrialRows = 2;
constexpr std::int64_t kTrialSize = 32;  // of a free dimension

std::string FirstLine(const std::string& text) {
  return text.substr(0, std::min(text.find('\n'), std::size_t{500}));
}

bool IsImage(const TensorSpec& spec) {
  const at::ScalarType type = ToScalarType(spec.dtype);
  return spec.shape.size() == 4 && (at::isFloatingType(type) || type == at::kByte);
}

std::vector<at::Tensor> MadeUp(const ArtifactManifest& manifest, at::Device device, int resolution,
                               std::int64_t channels) {
  std::vector<at::Tensor> inputs;
  for (const TensorSpec& spec : manifest.inputs) {
    std::vector<std::int64_t> shape = spec.shape;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      if (i == 0) {
        shape[i] = kTrialRows;
      } else if (shape[i] < 0) {
        const bool image = IsImage(spec);
        shape[i] = image && i == 1           ? channels
                   : image && resolution > 0 ? 2 * resolution
                                             : kTrialSize;
      }
    }
    inputs.push_back(at::zeros(shape, at::TensorOptions(ToScalarType(spec.dtype)).device(device)));
  }
  return inputs;
}

Status Forward(torch::jit::Module* module, const std::vector<at::Tensor>& inputs,
               const ScoreCost& cost, at::DeviceType device) {
  const c10::InferenceMode inference;
  const Bf16Scope scope(cost.bf16, device);
  try {
    std::vector<c10::IValue> values;
    for (const at::Tensor& input : inputs) values.emplace_back(Cheap(input, cost));
    module->forward(std::move(values));
    return OkStatus();
  } catch (const std::exception& e) {
    return InvalidArgument(Cause(e));
  }
}

std::string Asked(const ScoreCost& cost) {
  std::string text;
  if (cost.bf16) text = "score_dtype is 'bf16'";
  if (cost.resolution > 0) {
    text += (text.empty() ? "" : ", ") + ("score_resolution is " + std::to_string(cost.resolution));
  }
  if (cost.optimized) text += (text.empty() ? "" : ", ") + std::string("score_optimize is true");
  return text;
}

}  // namespace

std::string Cause(const std::exception& error) {
  if (const auto* c10_error = dynamic_cast<const c10::Error*>(&error))
    return FirstLine(c10_error->msg());
  const std::string text = error.what();  // TorchScript's messages put the cause last
  const std::size_t at = text.rfind("Error: ");
  const std::size_t line = at == std::string::npos ? 0 : text.rfind('\n', at) + 1;
  return FirstLine(text.substr(line));
}

at::Tensor AsBf16(const at::Tensor& tensor) {
  return tensor.is_floating_point() && tensor.dim() > 1 ? tensor.to(at::kBFloat16) : tensor;
}

void WeightsAsBf16(torch::jit::Module* module) {
  const torch::NoGradGuard no_grad;
  for (at::Tensor tensor : module->parameters()) tensor.set_data(AsBf16(tensor));
  for (at::Tensor tensor : module->buffers()) tensor.set_data(AsBf16(tensor));
}

torch::jit::Module Optimized(const Frame& archive, const torch::jit::Module& of) {
  const torch::NoGradGuard no_grad;
  torch::jit::Module fresh = torch::jit::load(std::make_shared<MemoryReader>(archive), at::kCPU);
  fresh.eval();
  std::unordered_map<std::string, at::Tensor> values;
  for (const auto& p : of.named_parameters()) values.emplace(p.name, p.value);
  for (const auto& b : of.named_buffers()) values.emplace(b.name, b.value);
  for (const auto& p : fresh.named_parameters()) p.value.copy_(values.at(p.name));
  for (const auto& b : fresh.named_buffers()) b.value.copy_(values.at(b.name));
  return torch::jit::optimize_for_inference(fresh);
}

Bf16Scope::Bf16Scope(bool on, at::DeviceType device) : on_(on), device_(device) {
  if (!on_) return;
  was_enabled_ = at::autocast::is_autocast_enabled(device_);
  was_cached_ = at::autocast::is_autocast_cache_enabled();
  was_dtype_ = at::autocast::get_autocast_dtype(device_);
  at::autocast::set_autocast_dtype(device_, at::kBFloat16);
  at::autocast::set_autocast_cache_enabled(false);
  at::autocast::set_autocast_enabled(device_, true);
}

Bf16Scope::~Bf16Scope() {
  if (!on_) return;
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_cache_enabled(was_cached_);
  at::autocast::set_autocast_dtype(device_, was_dtype_);
}

at::Tensor Cheap(const at::Tensor& input, const ScoreCost& cost) {
  at::Tensor out = input;
  const bool byte = input.scalar_type() == at::kByte;
  if (input.dim() == 4 && (byte || input.is_floating_point()) && cost.resolution > 0 &&
      std::max(input.size(2), input.size(3)) > cost.resolution) {
    out = at::upsample_bilinear2d(byte ? out.to(at::kFloat) : out,
                                  {cost.resolution, cost.resolution}, /*align_corners=*/false);
    if (byte) out = out.round_().clamp_(0, 255).to(at::kByte);
  }
  return cost.bf16 ? AsBf16(out) : out;
}

Result<std::vector<at::Tensor>> TryCost(const Frame& archive, const ArtifactManifest& manifest,
                                        at::Device device, const ScoreCost& cost,
                                        torch::jit::Module* module) {
  if (cost.full()) return std::vector<at::Tensor>();
  std::string inputs;
  bool image = false;
  for (const TensorSpec& spec : manifest.inputs) {
    inputs += (inputs.empty() ? "" : ", ") + ToString(spec);
    image = image || IsImage(spec);
  }
  if (cost.resolution > 0 && !image) {
    return InvalidArgument(
        Asked({false, cost.resolution}) +
        "; allowed: 0 for a scorer without images [n, c, h, w]; this one takes " + inputs);
  }
  torch::jit::Module full = torch::jit::load(std::make_shared<MemoryReader>(archive), device);
  full.eval();
  for (const std::int64_t channels : {3, 1}) {
    const auto example = MadeUp(manifest, device, cost.resolution, channels);
    if (!Forward(&full, example, {}, device.type()).ok()) continue;  // not a batch of this model
    if (Status status = Forward(module, example, cost, device.type()); !status.ok()) {
      return InvalidArgument(Asked(cost) + "; allowed: what this scorer can compute. It takes " +
                             inputs + ", and failed: " + status.message());
    }
    return example;
  }
  return std::vector<at::Tensor>();  // the first batch will tell
}

void WarmUp(torch::jit::Module* module, const std::vector<at::Tensor>& inputs,
            const ScoreCost& cost) {
  constexpr int kRuns = 2;  // the first is profiled, the second optimized by what it found
  if (inputs.empty()) return;
  for (int i = 0; i < kRuns; ++i) {
    // What fails here fails with the next batch, which is then rejected with the reason.
    [[maybe_unused]] const Status ignored =
        Forward(module, inputs, cost, inputs[0].device().type());
  }
}

}  // namespace siftd
