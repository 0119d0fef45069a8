// What the collectives reach at the sizes that training uses, under any launcher: mpirun -n 2 bench_comm
// [--device cpu|cuda] [--model DIR] [--seconds 0.5]. Conventions of nccl-tests: size is that of the whole
// array (what one rank sends of an all-reduce, what all ranks' shards make of an all-gather or
// reduce-scatter); algbw = size / time; busbw = algbw times 2(n-1)/n for all-reduce, (n-1)/n for the others,
// what every link then carries.
#include <algorithm>
#include <cstdio>

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/comm/comm.hpp"
#include "llmft/comm/gpu_choice.hpp"
#include "llmft/config/options.hpp"
#include "llmft/model/llama_tensors.hpp"
#include "llmft/ops/backend.hpp"

using namespace llmft;

namespace {

// Llama 3.2-1B
LlamaConfig default_config() {
  LlamaConfig c;
  c.hidden_size = 2048;
  c.intermediate_size = 8192;
  c.num_hidden_layers = 16;
  c.num_attention_heads = 32;
  c.num_key_value_heads = 8;
  c.head_dim = 64;
  c.vocab_size = 128256;
  c.tie_word_embeddings = true;
  return c;
}

struct Line {
  const char* collective;
  const char* what;
  DType dtype;
  int64_t numel;
};

class Bench {
 public:
  Bench(const Process& process, Device& device, double seconds)
      : process_(process), device_(device), comm_(make_comm(process, device)), seconds_(seconds) {}

  void run(const Line& line) {
    int n = comm_->size();
    int64_t shard = (line.numel + n - 1) / n;
    auto bytes = static_cast<size_t>(shard * n) * size_of(line.dtype);
    Buffer in(device_, bytes, MemoryPart::workspace), out(device_, bytes, MemoryPart::workspace);
    device_.zero(in.data(), bytes);
    Tensor full = in.view(line.dtype, 1, shard * n), other = out.view(line.dtype, 1, shard * n);
    Tensor part = other.col_range(0, shard);
    std::string kind = line.collective;
    auto once = [&] {
      if (kind == "all_reduce") comm_->all_reduce(full);
      if (kind == "all_gather") comm_->all_gather(part, full);
      if (kind == "reduce_scatter") comm_->reduce_scatter(full, part);
      if (kind == "all_to_all") comm_->all_to_all(full, other);
      if (kind == "broadcast") comm_->broadcast(full, 0);
    };
    auto timed = [&](int times) {
      device_.synchronize();
      process_.barrier();
      Stopwatch watch;
      for (int i = 0; i < times; ++i) once();
      device_.synchronize();
      double slowest[] = {watch.seconds()};
      process_.all_reduce_max(slowest);
      return slowest[0] / times;
    };
    timed(2);
    double seconds = timed(static_cast<int>(std::clamp(seconds_ / std::max(timed(2), 1e-7), 3.0, 1000.0)));
    double algbw = static_cast<double>(bytes) / seconds / 1e9;
    double factor = kind == "broadcast" ? 1 : (kind == "all_reduce" ? 2.0 : 1.0) * (n - 1) / n;
    if (process_.is_root())
      fmt::print("{:15} {:42} {:>12} {:>10.1f} {:>9.2f} {:>9.2f}\n", kind, line.what, bytes, 1e6 * seconds,
                 algbw, algbw * factor);
    std::fflush(stdout);
  }

 private:
  const Process& process_;
  Device& device_;
  std::unique_ptr<Comm> comm_;
  double seconds_;
};

enum class Where { automatic, cpu, cuda };
constexpr std::pair<const char*, Where> kWhere[] = {
    {"auto", Where::automatic}, {"cpu", Where::cpu}, {"cuda", Where::cuda}};

void bench(const Process& process, std::span<const std::string> args) {
  Where where = Where::automatic;
  std::string model;
  double seconds = 0.2;
  OptionSet set;
  set.add_enum<Where>("device", where, kWhere, "whose tensors", {.flag = "--device"});
  set.add("model", model, "sizes of this model folder; empty: Llama 3.2-1B",
          {.flag = "--model", .value_name = "DIR"});
  set.add("seconds", seconds, "a measurement's length", {.flag = "--seconds", .min = 0});
  set.parse(args);
  if (set.help_requested()) {
    if (process.is_root()) fmt::print("{}", set.help_text());
    return;
  }
  if (where == Where::automatic)
    where = process.all_agree(cuda_device_count() == 0) ? Where::cpu : Where::cuda;
  auto device = where == Where::cpu ? make_cpu_device() : make_cuda_device(gpu_of_rank(process));
  LlamaConfig config = model.empty() ? default_config() : load_llama_config(model);
  LlamaTensors lora(config, {16, 32, false, {"q_proj", "v_proj", "o_proj"}}, where == Where::cpu ? 1 : 64);
  LlamaTensors full(config, {});
  const Block& layer = full.block(full.layer_block(0));
  const Block& embedding = full.block(full.embedding_block());
  int64_t lora_layer = lora.block(lora.layer_block(0)).frozen_numel;
  const Line lines[] = {
      {"all_reduce", "squared norms, f64", DType::f64, 17 * 1024},
      {"all_reduce", "LoRA gradients, r = 16, f32 (ddp)", DType::f32, lora.trainable_count()},
      {"all_reduce", "a layer's gradients, f32 (ddp, full)", DType::f32, layer.trainable_numel},
      {"all_gather", "a layer's adapters, f32 (fsdp, LoRA)", DType::f32,
       lora.block(lora.layer_block(0)).trainable_numel},
      {"all_gather", "a layer's frozen weights, bf16 (fsdp)", DType::bf16, lora_layer},
      {"all_gather", "a layer's weights, f32 (fsdp, full)", DType::f32, layer.trainable_numel},
      {"all_gather", "the embedding, bf16 (fsdp, full)", DType::bf16, embedding.trainable_numel},
      {"reduce_scatter", "a layer's gradients, f32 (fsdp, full)", DType::f32, layer.trainable_numel},
      {"reduce_scatter", "the embedding's gradients, f32 (fsdp)", DType::f32, embedding.trainable_numel},
      {"all_to_all", "LoRA gradients, f32 (--deterministic)", DType::f32, lora.trainable_count()},
      {"all_to_all", "a layer's gradients, f32 (--deterministic)", DType::f32, layer.trainable_numel},
      {"broadcast", "a layer's weights, bf16", DType::bf16, layer.trainable_numel},
  };
  if (process.is_root())
    fmt::print("{} ranks, {}\n{:15} {:42} {:>12} {:>10} {:>9} {:>9}\n", process.size(), device->name(),
               "collective", "of", "bytes", "time us", "algbw", "busbw GB/s");
  Bench runner(process, *device, seconds);
  for (const Line& line : lines) runner.run(line);
}

}  // namespace

int main(int argc, char** argv) {
  Process process(&argc, &argv);
  log::set_rank(process.rank(), process.size());
  std::vector<std::string> args(argv + 1, argv + argc);
  try {
    bench(process, args);
  } catch (const std::exception& e) {
    log::error_line(e.what());
    if (process.size() > 1) process.abort(1);
    return 1;
  }
  return 0;
}
