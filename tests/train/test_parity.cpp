// The whole model against transformers and PEFT (tools/make_golden.py): forward, gradients, twenty training
// steps.
#include <cmath>

#include <doctest/doctest.h>

#include "fixture.hpp"
#include "llmft/model/safetensors.hpp"
#include "llmft/optim/schedule.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

// ||a - b|| / ||b||
double relative_error(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / size);
}

Documents golden_batch(const fs::path& folder) {
  nlohmann::json j = read_json(folder / "batch.json");
  auto tokens = j.at("tokens").get<std::vector<int32_t>>();
  auto offsets = j.at("offsets").get<std::vector<int32_t>>();
  auto starts = j.at("loss_start").get<std::vector<int32_t>>();
  Documents documents;
  for (size_t i = 0; i < starts.size(); ++i)
    documents.add({tokens.begin() + offsets[i], tokens.begin() + offsets[i + 1]}, starts[i]);
  return documents;
}

std::vector<float> golden_values(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  REQUIRE_MESSAGE(entry != nullptr, name);
  std::vector<float> values(static_cast<size_t>(entry->numel()));
  std::memcpy(values.data(), entry->bytes.data(), entry->bytes.size());
  return values;
}

std::vector<float> all_logits(Model& model, const Documents& documents) {
  std::vector<float> logits(documents.tokens.size() * static_cast<size_t>(model.config.vocab_size));
  std::vector<int32_t> rows(documents.tokens.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
  model.llama->logits(documents.view(), rows,
                      matrix_view(logits.data(), static_cast<int64_t>(rows.size()), model.config.vocab_size));
  return logits;
}

void check_gradients(Model& model, const fs::path& golden, double tolerance) {
  SafetensorsFile file(golden);
  size_t seen = 0;
  for (int b = 0; b < model.tensors.block_count(); ++b) {
    std::vector<float> flat(static_cast<size_t>(model.tensors.block(b).trainable_numel));
    Tensor local = model.store->local_gradient(b);
    std::memcpy(flat.data(), local.data, local.bytes());
    for (const Trainable& t : model.tensors.block(b).trainables) {
      INFO(t.name);
      auto mine =
          std::span<const float>(flat).subspan(static_cast<size_t>(t.offset), static_cast<size_t>(t.numel()));
      CHECK(relative_error(mine, golden_values(file, t.name)) < tolerance);
      ++seen;
    }
  }
  CHECK(seen == file.names().size());
}

AdapterSpec adapter_in(const fs::path& folder) {
  return read_adapter_config(folder);
}

}  // namespace

TEST_CASE("logits, loss and all gradients equal transformers', full fine-tuning") {
  for (const char* name : {"parity_untied", "parity_tied"}) {
    INFO(name);
    fs::path folder = kGolden / name;
    Documents documents = golden_batch(folder);
    Model model(folder / "model", {});
    SafetensorsFile forward(folder / "forward.safetensors");
    CHECK(relative_error(all_logits(model, documents), golden_values(forward, "logits")) < 1e-5);
    double want = read_json(folder / "loss.json").at("loss");
    CHECK(model.step_gradients(documents) == doctest::Approx(want).epsilon(1e-5));
    CHECK(model.llama->loss(documents.view()) / static_cast<double>(documents.targets.size()) ==
          doctest::Approx(want).epsilon(1e-5));
    check_gradients(model, folder / "grads.safetensors", 1e-4);
  }
}

TEST_CASE("logits, loss and adapter gradients equal PEFT's, from adapters that PEFT wrote") {
  for (const char* name : {"parity_untied", "parity_tied"}) {
    for (const char* adapter : {"lora_qvo", "lora_all_rs"}) {
      for (int64_t multiple : {1, 64}) {  // a GPU's padding of the adapter columns changes nothing
        CAPTURE(name);
        CAPTURE(adapter);
        fs::path folder = kGolden / name / adapter;
        Documents documents = golden_batch(kGolden / name);
        Model model(kGolden / name / "model", adapter_in(folder / "adapter"), folder / "adapter",
                    Precision::fp32, 256, make_self_comm(), Strategy::ddp, Reduction::fast, multiple);
        SafetensorsFile forward(folder / "forward.safetensors");
        CHECK(relative_error(all_logits(model, documents), golden_values(forward, "logits")) < 1e-5);
        CHECK(model.step_gradients(documents) ==
              doctest::Approx(read_json(folder / "loss.json").at("loss").get<double>()).epsilon(1e-5));
        check_gradients(model, folder / "grads.safetensors", 1e-4);
      }
    }
  }
}

TEST_CASE("twenty AdamW steps follow torch's losses and gradient norms") {
  struct Run {
    const char* name;
    const char* model;
    bool lora;
  };
  for (Run run :
       {Run{"full_tied", "parity_tied", false}, Run{"full_untied", "parity_untied", false},
        Run{"lora_qvo_tied", "parity_tied", true}, Run{"lora_all_rs_untied", "parity_untied", true}}) {
    INFO(run.name);
    fs::path folder = kGolden / "train20" / run.name;
    nlohmann::json golden = read_json(folder / "steps.json");
    nlohmann::json batches = read_json(kGolden / "train20/batches.json").at("steps");
    fs::path adapter = run.lora ? folder / "initial_adapter" : fs::path();
    Model model(kGolden / run.model / "model", run.lora ? adapter_in(adapter) : AdapterSpec{}, adapter);
    AdamWOptions options;
    options.weight_decay = golden.at("optimizer").at("weight_decay");
    AdamW optimizer(options, {golden.at("clip_grad_norm")}, *model.ops, *model.store);
    for (size_t s = 0; s < golden.at("steps").size(); ++s) {
      Documents documents;
      for (const auto& d : batches[s])
        documents.add(d.at("tokens").get<std::vector<int32_t>>(), d.at("loss_start"));
      const auto& want = golden["steps"][s];
      CHECK(model.step_gradients(documents) == doctest::Approx(want.at("loss").get<double>()).epsilon(1e-5));
      optimizer.judge_gradients();
      CHECK(optimizer.read_state().norm == doctest::Approx(want.at("grad_norm").get<double>()).epsilon(1e-4));
      optimizer.step(want.at("lr"));
    }
    for (const auto& [name, want] : golden.at("final_l2_norms").items()) {
      for (int b = 0; b < model.tensors.block_count(); ++b) {
        for (const Trainable& t : model.tensors.block(b).trainables) {
          if (t.name != name) continue;
          std::vector<float> master = model.store->read_master(b);
          double sum = 0;
          for (int64_t i = 0; i < t.numel(); ++i)
            sum += std::pow(static_cast<double>(master[static_cast<size_t>(t.offset + i)]), 2);
          INFO(name);
          CHECK(std::sqrt(sum) == doctest::Approx(want.get<double>()).epsilon(1e-5));
        }
      }
    }
  }
}

TEST_CASE("learning rates equal transformers' cosine schedule with warm-up") {
  nlohmann::json golden = read_json(kGolden / "train20/full_tied/steps.json");
  Schedule schedule{ScheduleKind::cosine, golden.at("schedule").at("peak_lr"),
                    golden.at("schedule").at("warmup_steps"), golden.at("schedule").at("total_steps"), 0};
  for (size_t s = 0; s < golden.at("steps").size(); ++s)
    CHECK(schedule.at(static_cast<int64_t>(s)) ==
          doctest::Approx(golden["steps"][s].at("lr").get<double>()).epsilon(1e-12));
}
