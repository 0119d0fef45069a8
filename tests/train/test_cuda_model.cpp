// The whole model on a GPU against the same model on the CPU backend, which is the oracle: loss and every
// gradient, LoRA and full fine-tuning, in each precision.
#include <cmath>

#include <doctest/doctest.h>

#include "fixture.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

struct Result {
  double loss = 0;
  double norm = 0;
  std::vector<float> gradients;
};

Result run(DeviceKind kind, Precision precision, bool lora) {
  fs::path folder = kGolden / "parity_tied";
  fs::path adapter = lora ? folder / "lora_all_rs/adapter" : fs::path();
  Model model(folder / "model", lora ? read_adapter_config(adapter) : AdapterSpec{}, adapter, precision, 256,
              make_self_comm(), Strategy::ddp, Reduction::fast, 64, kind);
  nlohmann::json j = read_json(folder / "batch.json");
  auto tokens = j.at("tokens").get<std::vector<int32_t>>();
  auto offsets = j.at("offsets").get<std::vector<int32_t>>();
  auto starts = j.at("loss_start").get<std::vector<int32_t>>();
  Documents documents;
  for (size_t i = 0; i < starts.size(); ++i)
    documents.add({tokens.begin() + offsets[i], tokens.begin() + offsets[i + 1]}, starts[i]);
  AdamW optimizer({}, {}, *model.ops, *model.store);
  Result result;
  result.loss = model.step_gradients(documents);
  optimizer.judge_gradients();
  result.norm = optimizer.read_state().norm;
  for (int b = 0; b < model.tensors.block_count(); ++b) {
    Tensor gradient = model.store->local_gradient(b);
    std::vector<float> values(static_cast<size_t>(gradient.numel()));
    model.device->copy_to_host(values.data(), gradient.data, gradient.bytes());
    result.gradients.insert(result.gradients.end(), values.begin(), values.end());
  }
  return result;
}

}  // namespace

TEST_CASE("a GPU computes the CPU backend's loss and gradients") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  struct Case {
    Precision precision;
    double loss,
        gradients;  // tolerances: f32 sums in another order; 16-bit activations rounded at other places
  };
  for (Case c : {Case{Precision::fp32, 1e-5, 1e-4}, Case{Precision::tf32, 1e-3, 1e-2},
                 Case{Precision::bf16, 1e-2, 5e-2}, Case{Precision::fp16, 2e-3, 1e-2}}) {
    for (bool lora : {true, false}) {
      CAPTURE(std::string(name_of(c.precision)));
      CAPTURE(lora);
      Result cpu = run(DeviceKind::cpu, c.precision, lora), gpu = run(DeviceKind::cuda, c.precision, lora);
      CHECK(gpu.loss == doctest::Approx(cpu.loss).epsilon(c.loss));
      double error = 0, size = 0;
      for (size_t i = 0; i < cpu.gradients.size(); ++i) {
        error += std::pow(static_cast<double>(gpu.gradients[i]) - static_cast<double>(cpu.gradients[i]), 2);
        size += std::pow(static_cast<double>(cpu.gradients[i]), 2);
      }
      CHECK(std::sqrt(error / size) < c.gradients);
      CHECK(gpu.norm == doctest::Approx(cpu.norm).epsilon(c.gradients));
    }
  }
}
