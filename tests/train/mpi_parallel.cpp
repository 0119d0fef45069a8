// One rank = DDP = FSDP on 1, 2 and 4 ranks: the same documents, as four micro-batches, spread over whatever
// ranks there are, against one process that does them all.
#include <cmath>

#include <doctest/doctest.h>

#include "fixture.hpp"
#include "mpi_main.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

constexpr int kMicroBatches = 4;

struct Case {
  bool lora;
  Precision precision;
};
constexpr Case kCases[] = {
    {false, Precision::fp32}, {true, Precision::fp32}, {true, Precision::bf16}, {false, Precision::fp16}};

std::vector<Documents> golden_documents(int per_micro_batch) {
  nlohmann::json j = read_json(kGolden / "parity_tied/batch.json");
  auto tokens = j.at("tokens").get<std::vector<int32_t>>();
  auto offsets = j.at("offsets").get<std::vector<int32_t>>();
  auto starts = j.at("loss_start").get<std::vector<int32_t>>();
  std::vector<Documents> out;
  for (size_t i = 0; i < starts.size(); ++i) {
    if (i % static_cast<size_t>(per_micro_batch) == 0) out.emplace_back();
    out.back().add({tokens.begin() + offsets[i], tokens.begin() + offsets[i + 1]}, starts[i]);
  }
  return out;
}

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<std::vector<float>> masters;
};

// Three updates on the same documents.
Outcome train(const Case& c, std::unique_ptr<Comm> comm, Strategy strategy, Reduction reduction,
              int per_micro_batch) {
  fs::path folder = kGolden / "parity_tied";
  fs::path adapter = c.lora ? folder / "lora_all_rs/adapter" : fs::path();
  int rank = comm->rank(), ranks = comm->size();
  Model model(folder / "model", c.lora ? read_adapter_config(adapter) : AdapterSpec{}, adapter, c.precision,
              256, std::move(comm), strategy, reduction);
  GradientOptions gradients{1.0, model.recipe.loss_scaling, 1024};
  AdamW optimizer({}, gradients, *model.ops, *model.store, *model.comm);
  std::vector<Documents> batches = golden_documents(per_micro_batch);
  double scored = 0;
  for (const Documents& d : batches) scored += static_cast<double>(d.targets.size());
  Outcome out;
  for (int step = 0; step < 3; ++step) {
    model.store->zero_gradients();
    std::vector<double> losses(batches.size());
    for (size_t i = static_cast<size_t>(rank); i < batches.size(); i += static_cast<size_t>(ranks))
      losses[i] = model.forward_backward(batches[i], static_cast<float>(1 / scored), optimizer.loss_scale());
    model.comm->all_reduce_host(losses);
    model.store->finish_gradients();
    optimizer.judge_gradients();
    double norm = optimizer.read_state().norm;
    optimizer.step(1e-3);
    double loss = 0;
    for (double l : losses) loss += l;
    out.losses.push_back(loss / scored);
    out.norms.push_back(norm);
  }
  for (int b = 0; b < model.tensors.block_count(); ++b) out.masters.push_back(model.store->read_master(b));
  return out;
}

double difference(const Outcome& a, const Outcome& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.masters.size(); ++i)
    for (size_t k = 0; k < a.masters[i].size(); ++k) {
      error += std::pow(static_cast<double>(a.masters[i][k]) - static_cast<double>(b.masters[i][k]), 2);
      size += std::pow(static_cast<double>(b.masters[i][k]), 2);
    }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("tree reduction: DDP and FSDP have the same bits on any number of ranks") {
  const Process& process = test_process();
  for (const Case& c : kCases) {
    CAPTURE(c.lora);
    CAPTURE(name_of(c.precision));
    Outcome alone = train(c, make_self_comm(), Strategy::ddp, Reduction::tree, 1);
    for (Strategy strategy : {Strategy::ddp, Strategy::fsdp}) {
      CAPTURE(name_of(strategy));
      Outcome together = train(c, make_host_comm(process), strategy, Reduction::tree, 1);
      CHECK(together.losses == alone.losses);
      CHECK(together.norms == alone.norms);
      CHECK(together.masters == alone.masters);
    }
  }
}

TEST_CASE("fast reduction: DDP and FSDP agree with one rank to rounding") {
  const Process& process = test_process();
  for (const Case& c : kCases) {
    // 16-bit activations are the same on every rank; only the f32 sums of gradients differ in order
    Outcome alone = train(c, make_self_comm(), Strategy::ddp, Reduction::fast, 1);
    for (Strategy strategy : {Strategy::ddp, Strategy::fsdp}) {
      CAPTURE(c.lora);
      CAPTURE(name_of(c.precision));
      CAPTURE(name_of(strategy));
      Outcome together = train(c, make_host_comm(process), strategy, Reduction::fast, 1);
      for (size_t s = 0; s < alone.losses.size(); ++s) {
        CHECK(together.losses[s] == doctest::Approx(alone.losses[s]).epsilon(1e-6));
        CHECK(together.norms[s] ==
              doctest::Approx(alone.norms[s]).epsilon(c.precision == Precision::fp32 ? 1e-6 : 1e-4));
      }
      CHECK(difference(together, alone) < 1e-6);
    }
  }
}

TEST_CASE("the split into micro-batches does not change loss or gradients") {
  if (test_process().size() > 1) return;
  for (bool lora : {false, true}) {
    Outcome one =
        train({lora, Precision::fp32}, make_self_comm(), Strategy::ddp, Reduction::fast, kMicroBatches);
    for (int per_micro_batch : {1, 2}) {
      Outcome split =
          train({lora, Precision::fp32}, make_self_comm(), Strategy::ddp, Reduction::fast, per_micro_batch);
      for (size_t s = 0; s < one.losses.size(); ++s) {
        CHECK(split.losses[s] == doctest::Approx(one.losses[s]).epsilon(1e-6));
        CHECK(split.norms[s] == doctest::Approx(one.norms[s]).epsilon(1e-5));
      }
      CHECK(difference(split, one) < 1e-5);
    }
  }
}

TEST_CASE("FSDP holds a share of parameters, gradients and optimizer state between uses") {
  const Process& process = test_process();
  fs::path folder = kGolden / "parity_tied";
  auto held = [&](Strategy strategy, const AdapterSpec& adapter, const fs::path& adapter_folder) {
    auto device = make_cpu_device();
    Recipe recipe = make_recipe(Precision::fp32);
    auto ops = make_cpu_ops(*device, recipe.matmul, 1);
    LlamaTensors tensors(load_llama_config(folder / "model"), adapter);
    auto comm = make_host_comm(process);
    auto store = make_param_store(strategy, {tensors, recipe, *ops, *comm, Reduction::fast});
    AdamW optimizer({}, {}, *ops, *store, *comm);
    load_model(folder / "model", tensors, recipe, 1, *store);
    if (!adapter_folder.empty()) load_adapter(adapter_folder, tensors, *store);
    return std::pair(device->bytes_held(), device->bytes_held(MemoryPart::optimizer));
  };
  fs::path lora = folder / "lora_all_rs/adapter";
  for (bool full : {true, false}) {
    AdapterSpec adapter = full ? AdapterSpec{} : read_adapter_config(lora);
    fs::path adapter_folder = full ? fs::path() : lora;
    auto [whole, whole_optimizer] = held(Strategy::ddp, adapter, adapter_folder);
    auto [share, share_optimizer] = held(Strategy::fsdp, adapter, adapter_folder);
    double n = process.size();
    // shards are padded to whole chunks: a few percent of these small blocks
    CHECK(static_cast<double>(share) < static_cast<double>(whole) / n * 1.1);
    double total_optimizer[] = {static_cast<double>(share_optimizer)};
    process.all_reduce_sum(total_optimizer);
    CHECK(total_optimizer[0] == static_cast<double>(whole_optimizer));
  }
}

TEST_CASE("gradients do not pass between the documents of a micro-batch") {
  if (test_process().size() > 1) return;
  // Changing one document must leave the other's logits untouched, bit for bit, wherever it stands.
  Model model(kGolden / "parity_untied/model", {});
  std::vector<int32_t> a{3, 14, 15, 92, 65, 35}, b{8, 97, 93, 23}, c{100, 200, 1, 2};
  auto logits_of_b = [&](const std::vector<int32_t>& first, const std::vector<int32_t>& last) {
    Documents documents;
    documents.add(first, 1);
    documents.add(b, 1);
    documents.add(last, 1);
    std::vector<int32_t> rows;
    for (size_t i = 0; i < b.size(); ++i) rows.push_back(static_cast<int32_t>(first.size() + i));
    std::vector<float> logits(rows.size() * static_cast<size_t>(model.config.vocab_size));
    model.llama->logits(
        documents.view(), rows,
        matrix_view(logits.data(), static_cast<int64_t>(rows.size()), model.config.vocab_size));
    return logits;
  };
  std::vector<float> base = logits_of_b(a, c);
  std::vector<int32_t> other = a;
  for (int32_t& t : other) t = (t * 7 + 1) % model.config.vocab_size;
  CHECK(logits_of_b(other, c) == base);
  CHECK(logits_of_b(a, other) == base);

  // With loss on one document only, embeddings that only the other uses get a gradient of exactly zero.
  Documents documents;
  documents.add(a, static_cast<int32_t>(a.size()));
  documents.add(b, 1);
  model.step_gradients(documents);
  Tensor gradient = model.store->local_gradient(model.tensors.embedding_block())
                        .reshaped(model.config.vocab_size, model.config.hidden_size);
  for (int32_t token : a)
    for (int64_t i = 0; i < gradient.cols; ++i) CHECK(gradient.row<float>(token)[i] == 0.0f);
  CHECK(gradient.row<float>(b[0])[0] != 0.0f);
}
