// Generation of Llama 3.2 1B's shape with random weights in bf16 on a GPU: 256 prompt tokens and 256 new ones
// a sequence, greedy, as Hugging Face's generate() is measured beside it. new_tok_s counts the whole time,
// reading the prompts included; decode_tok_s the time after every sequence has its first token. With
// `adapter` every second sequence is answered through LoRA columns (rank 16 on q, v, o) in the same batch.
// Without a GPU every benchmark says so. tools/peers/generate_bench.py measures generate() the same way.
// LLMFT_BENCH_MODEL=FOLDER: that model's weights (for all but `adapter`). LLMFT_BENCH_ANSWERS=FILE: each
// greedy answer as a line {"batch", "prompt", "answer"} of token ids, for generate_bench.py --answers.
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>

#include <benchmark/benchmark.h>
#include <fmt/ranges.h>

#include "llmft/base/clock.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/generate/make_engine.hpp"

namespace {

using namespace llmft;

constexpr int64_t kPrompt = 256, kNew = 256;

class NoText final : public Tokenizer {
 public:
  void encode(std::string_view, std::vector<TokenId>&) const override {}
  void encode_with_special(std::string_view, std::vector<TokenId>&) const override {}
  std::string decode(std::span<const TokenId> ids) const override { return std::string(ids.size(), 'x'); }
  size_t vocabulary_size() const override { return 128256; }
  const std::map<std::string, TokenId, std::less<>>& special_tokens() const override { return none_; }
  std::string kind() const override { return "none"; }

 private:
  std::map<std::string, TokenId, std::less<>> none_;
};

LlamaConfig llama_1b() {
  LlamaConfig c;
  c.vocab_size = 128256;
  c.hidden_size = 2048;
  c.intermediate_size = 8192;
  c.num_hidden_layers = 16;
  c.num_attention_heads = 32;
  c.num_key_value_heads = 8;
  c.head_dim = 64;
  c.rms_norm_eps = 1e-5;
  c.rope_theta = 500000;
  c.tie_word_embeddings = true;
  c.max_position_embeddings = 131072;
  return c;
}

// One set of weights serves all benchmarks of a kind.
LoadedModel& weights(bool adapter) {
  static std::map<bool, std::unique_ptr<LoadedModel>> loaded;
  std::unique_ptr<LoadedModel>& model = loaded[adapter];
  if (model) return *model;
  ModelSource source{.device = DeviceChoice::cuda, .precision = Precision::bf16};
  const char* folder = std::getenv("LLMFT_BENCH_MODEL");
  if (folder != nullptr && !adapter) {
    source.model = folder;
    model = std::make_unique<LoadedModel>(source);
  } else {
    AdapterSpec spec;
    if (adapter) spec = {16, 32, false, {"q_proj", "v_proj", "o_proj"}};
    model = std::make_unique<LoadedModel>(llama_1b(), spec, source);
  }
  return *model;
}

struct Conversation {
  std::vector<int32_t> prompt, answer;
};

void write_answers(int64_t batch, const std::map<uint64_t, Conversation>& all) {
  const char* path = std::getenv("LLMFT_BENCH_ANSWERS");
  if (path == nullptr) return;
  std::ofstream file(path, std::ios::app);
  for (const auto& [id, c] : all)
    file << fmt::format("{{\"batch\": {}, \"prompt\": [{}], \"answer\": [{}]}}\n", batch,
                        fmt::join(c.prompt, ", "), fmt::join(c.answer, ", "));
}

struct Times {
  double all = 0;
  double decode = 0;  // from the step after which every sequence has a token
  int64_t decoded = 0;
  std::map<uint64_t, Conversation> conversations;
};

Times run(Engine& engine, int64_t batch, int64_t new_tokens, const SamplingParams& sampling, bool adapter,
          uint64_t& stream) {
  Times times;
  for (int64_t i = 0; i < batch; ++i) {
    CounterRng rng(3, ++stream);
    GenerationRequest request{.sampling = sampling};
    request.sampling.max_tokens = new_tokens;
    if (adapter && (i % 2 == 1 || batch == 1)) request.weights = AnswerWeights::adapted;
    for (uint64_t t = 0; t < kPrompt; ++t)
      request.prompt.push_back(static_cast<int32_t>(rng.below(t, 128000)));
    std::vector<int32_t> prompt = request.prompt;
    times.conversations[engine.submit(std::move(request))].prompt = std::move(prompt);
  }
  Stopwatch watch;
  double all_started = 0;
  int64_t generated = 0, before = engine.stats().generated_tokens, at_start = 0, started = 0;
  while (!engine.idle()) {
    for (const GenerationEvent& e : engine.step()) {
      std::vector<int32_t>& answer = times.conversations[e.request].answer;
      if (answer.empty() && !e.tokens.empty()) ++started;
      answer.insert(answer.end(), e.tokens.begin(), e.tokens.end());
    }
    generated = engine.stats().generated_tokens - before;
    if (all_started == 0 && started == batch) {
      all_started = watch.seconds();
      at_start = generated;
    }
  }
  times.all = watch.seconds();
  times.decode = times.all - all_started;
  times.decoded = generated - at_start;
  return times;
}

void generate(benchmark::State& state, int64_t batch, bool adapter, const SamplingParams& sampling) {
  if (cuda_device_count() == 0) {
    state.SkipWithError("no GPU on this machine");
    return;
  }
  LoadedModel& model = weights(adapter);
  NoText tokenizer;
  auto engine = make_engine(model, {.max_context = kPrompt + kNew, .max_sequences = batch}, tokenizer);
  uint64_t stream = 0;
  run(*engine, batch, 8, sampling, adapter, stream);  // algorithms are chosen, steps recorded
  run(*engine, batch, 8, sampling, adapter, stream);
  double all = 0, decode = 0;
  int64_t rounds = 0, decoded = 0;
  for (auto _ : state) {
    Times times = run(*engine, batch, kNew, sampling, adapter, stream);
    state.SetIterationTime(times.all);
    all += times.all;
    decode += times.decode;
    decoded += times.decoded;
    if (++rounds == 1 && !adapter && sampling.temperature == 0) write_answers(batch, times.conversations);
  }
  state.counters["new_tok_s"] = static_cast<double>(rounds * batch * kNew) / all;
  state.counters["decode_tok_s"] = static_cast<double>(decoded) / decode;
  state.counters["ms_a_step"] = 1e3 * decode / (static_cast<double>(decoded) / static_cast<double>(batch));
  state.counters["GB"] = static_cast<double>(model.device().bytes_held()) / 1e9;
}

const SamplingParams kGreedy{.temperature = 0};
const SamplingParams kSampled{.temperature = 0.7, .top_k = 50, .top_p = 0.9, .repetition_penalty = 1.1};

#define GENERATE(name, batch, adapter, sampling)              \
  BENCHMARK_CAPTURE(generate, name, batch, adapter, sampling) \
      ->Unit(benchmark::kMillisecond)                         \
      ->UseManualTime()                                       \
      ->Iterations(3)
GENERATE(batch_1, 1, false, kGreedy);
GENERATE(batch_4, 4, false, kGreedy);
GENERATE(batch_8, 8, false, kGreedy);
GENERATE(batch_32, 32, false, kGreedy);
GENERATE(batch_128, 128, false, kGreedy);
GENERATE(batch_1_adapter, 1, true, kGreedy);
GENERATE(batch_32_adapter, 32, true, kGreedy);
GENERATE(batch_128_adapter, 128, true, kGreedy);
GENERATE(batch_1_sampled, 1, false, kSampled);
GENERATE(batch_32_sampled, 32, false, kSampled);
GENERATE(batch_128_sampled, 128, false, kSampled);

}  // namespace
