// One rank = DDP = FSDP = HSDP on 1, 2 and 4 ranks: the same documents, as four micro-batches, spread over
// whatever ranks there are, against one process that does them all.
#include <algorithm>
#include <cmath>

#include <doctest/doctest.h>

#include "fixture.hpp"
#include "hurry_comm.hpp"
#include "lazy_comm.hpp"
#include "mpi_main.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

constexpr int kMicroBatches = 4;

struct Sharing {
  const char* name;
  Strategy strategy;
  FsdpMode mode = FsdpMode::full_shard;
};
constexpr Sharing kSharings[] = {{"ddp", Strategy::ddp},
                                 {"fsdp", Strategy::fsdp},
                                 {"fsdp shard_grad_op", Strategy::fsdp, FsdpMode::shard_grad_op},
                                 {"hsdp", Strategy::hsdp},
                                 {"hsdp shard_grad_op", Strategy::hsdp, FsdpMode::shard_grad_op}};

// Two ranks a copy, where there are as many.
int group_of(const Sharing& sharing, int ranks) {
  return sharing.strategy == Strategy::hsdp ? std::min(2, ranks) : 0;
}

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
Outcome train(const Case& c, std::unique_ptr<Comm> comm, const Sharing& sharing, Reduction reduction,
              int per_micro_batch) {
  fs::path folder = kGolden / "parity_tied";
  fs::path adapter = c.lora ? folder / "lora_all_rs/adapter" : fs::path();
  int rank = comm->rank(), ranks = comm->size();
  Model model(folder / "model", c.lora ? read_adapter_config(adapter) : AdapterSpec{}, adapter, c.precision,
              256, std::move(comm), sharing.strategy, reduction, 1, DeviceKind::cpu, sharing.mode,
              group_of(sharing, ranks));
  GradientOptions gradients{1.0, model.recipe.loss_scaling, 1024};
  AdamW optimizer({}, gradients, *model.ops, *model.store);
  std::vector<Documents> batches = golden_documents(per_micro_batch);
  double scored = 0;
  for (const Documents& d : batches) scored += static_cast<double>(d.targets.size());
  Outcome out;
  for (int step = 0; step < 3; ++step) {
    model.store->zero_gradients(static_cast<int64_t>(batches.size()) / ranks);
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

TEST_CASE("tree reduction: DDP, FSDP and HSDP have the same bits on any number of ranks") {
  const Process& process = test_process();
  for (const Case& c : kCases) {
    CAPTURE(c.lora);
    CAPTURE(std::string(name_of(c.precision)));
    Outcome alone = train(c, make_self_comm(), kSharings[0], Reduction::tree, 1);
    for (const Sharing& sharing : kSharings) {
      CAPTURE(sharing.name);
      Outcome together =
          train(c, std::make_unique<LazyComm>(make_host_comm(process)), sharing, Reduction::tree, 1);
      CHECK(together.losses == alone.losses);
      CHECK(together.norms == alone.norms);
      CHECK(together.masters == alone.masters);
    }
  }
}

TEST_CASE("fast reduction: DDP, FSDP and HSDP agree with one rank to rounding") {
  const Process& process = test_process();
  for (const Case& c : kCases) {
    // 16-bit activations are the same on every rank; only the f32 sums of gradients differ in order
    Outcome alone = train(c, make_self_comm(), kSharings[0], Reduction::fast, 1);
    for (const Sharing& sharing : kSharings) {
      CAPTURE(c.lora);
      CAPTURE(std::string(name_of(c.precision)));
      CAPTURE(sharing.name);
      Outcome together =
          train(c, std::make_unique<LazyComm>(make_host_comm(process)), sharing, Reduction::fast, 1);
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
        train({lora, Precision::fp32}, make_self_comm(), kSharings[0], Reduction::fast, kMicroBatches);
    for (int per_micro_batch : {1, 2}) {
      Outcome split =
          train({lora, Precision::fp32}, make_self_comm(), kSharings[0], Reduction::fast, per_micro_batch);
      for (size_t s = 0; s < one.losses.size(); ++s) {
        CHECK(split.losses[s] == doctest::Approx(one.losses[s]).epsilon(1e-6));
        CHECK(split.norms[s] == doctest::Approx(one.norms[s]).epsilon(1e-5));
      }
      CHECK(difference(split, one) < 1e-5);
    }
  }
}

TEST_CASE("with two ranks or more FSDP takes less memory than DDP on every rank") {
  const Process& process = test_process();
  if (process.size() == 1) return;
  // The model of the parity goldens with more layers and fewer tokens, as models are: small and deep.
  fs::path folder = kGolden / "parity_tied";
  LlamaConfig config = load_llama_config(folder / "model");
  config.num_hidden_layers = 8;
  Documents documents = golden_documents(1)[0];
  struct Memory {
    size_t peak, weights, gradients, optimizer;
  };
  auto measure = [&](const Sharing& sharing, bool lora, Precision precision, Reduction reduction) {
    auto device = make_cpu_device();
    Recipe recipe = make_recipe(precision);
    auto ops = make_cpu_ops(*device, recipe.matmul, 1);
    LlamaTensors tensors(config, lora ? read_adapter_config(folder / "lora_all_rs/adapter") : AdapterSpec{});
    auto comm = make_host_comm(process);
    auto store = make_param_store(sharing.strategy, {tensors, recipe, *ops, *comm, reduction, sharing.mode,
                                                     group_of(sharing, process.size())});
    for (int b = 0; b < tensors.block_count(); ++b) {
      std::vector<std::byte> frozen(static_cast<size_t>(tensors.block(b).frozen_numel) *
                                    size_of(recipe.compute));
      if (!frozen.empty()) store->set_frozen(b, frozen);
      store->set_master(b, std::vector<float>(static_cast<size_t>(tensors.block(b).trainable_numel), 0.01f));
    }
    store->publish();
    AdamW optimizer({}, {}, *ops, *store);
    Llama llama(tensors, recipe, *ops, *store, {64, 16});
    Buffer loss(*device, sizeof(double), MemoryPart::workspace);
    for (int step = 0; step < 2; ++step) {
      store->zero_gradients(2);
      for (int j = 0; j < 2; ++j)
        llama.forward_backward(documents.view(), 1.0f, {}, loss.view(DType::f64, 1, 1));
      store->finish_gradients();
      optimizer.judge_gradients();
      optimizer.step(1e-3);
    }
    return Memory{device->peak_bytes(), device->peak_bytes(MemoryPart::weights),
                  device->peak_bytes(MemoryPart::gradients), device->peak_bytes(MemoryPart::optimizer)};
  };
  for (bool lora : {true, false}) {
    for (Precision precision : {Precision::fp32, Precision::bf16}) {
      for (Reduction reduction : {Reduction::fast, Reduction::tree}) {
        Memory ddp = measure(kSharings[0], lora, precision, reduction);
        for (size_t i = 1; i < std::size(kSharings); ++i) {
          const Sharing& sharing = kSharings[i];
          CAPTURE(lora);
          CAPTURE(std::string(name_of(precision)));
          CAPTURE(reduction == Reduction::tree);
          CAPTURE(sharing.name);
          Memory mine = measure(sharing, lora, precision, reduction);
          CHECK(mine.peak < ddp.peak);
          double ranks = sharing.strategy == Strategy::hsdp ? 2 : process.size();
          auto share = [&](size_t part, size_t whole) {
            return static_cast<double>(part) / static_cast<double>(whole) * ranks;
          };
          // shards are padded to whole chunks: a few percent of these small blocks
          if (reduction == Reduction::fast) CHECK(share(mine.gradients, ddp.gradients) < 1.1);
          CHECK(share(mine.optimizer, ddp.optimizer) < 1.2);
        }
      }
    }
  }
}

TEST_CASE("no block waits for what was sent just before it") {
  const Process& process = test_process();
  if (process.size() == 1) return;
  fs::path folder = kGolden / "parity_tied";
  LlamaConfig config = load_llama_config(folder / "model");
  config.num_hidden_layers = 8;
  Documents documents = golden_documents(1)[0];
  for (bool lora : {true, false}) {
    for (FsdpMode mode : {FsdpMode::full_shard, FsdpMode::shard_grad_op}) {
      CAPTURE(lora);
      CAPTURE(mode == FsdpMode::full_shard);
      auto device = make_cpu_device();
      Recipe recipe = make_recipe(Precision::bf16);
      auto ops = make_cpu_ops(*device, recipe.matmul, 1);
      LlamaTensors tensors(config,
                           lora ? read_adapter_config(folder / "lora_all_rs/adapter") : AdapterSpec{});
      HurryComm comm(make_host_comm(process));
      auto store = make_param_store(Strategy::fsdp, {tensors, recipe, *ops, comm, Reduction::fast, mode, 0});
      store->publish();
      AdamW optimizer({}, {}, *ops, *store);
      Llama llama(tensors, recipe, *ops, *store, {64, 16});
      Buffer loss(*device, sizeof(double), MemoryPart::workspace);
      for (int step = 0; step < 3; ++step) {
        store->zero_gradients(1);
        comm.hurried = 0;
        llama.forward_backward(documents.view(), 1.0f, {}, loss.view(DType::f64, 1, 1));
        if (step > 0) CHECK(comm.hurried == 0);
        store->finish_gradients();
        optimizer.judge_gradients();
        optimizer.step(1e-3);
        comm.wait({});  // the embedding's weights have had the layers' update to travel
      }
    }
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
