// Speed of the data layer, with inputs/tiny (run from the repository's root), or with LLMFT_BENCH_INPUT and
// LLMFT_LLAMA3_TOKENIZER.
//   parquet_to_shards   the whole of 'llmft preprocess' in one process; bytes are those of the text
//   loader              packs for training, one after another in shuffled order. step_share is the part of a
//                       training step that one thread needs for its data at 300,000 tokens/s, if nothing
//                       overlapped: 0.01 is 1 %. first_touch: of shards just opened, checksums included.
#include <cstdlib>
#include <filesystem>

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unistd.h>

#include "llmft/base/log.hpp"
#include "llmft/comm/process.hpp"
#include "llmft/data/loader.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/pipeline.hpp"
#include "llmft/data/shard_set.hpp"

namespace {

using namespace llmft;
namespace fs = std::filesystem;

constexpr double kTokensPerSecond = 300e3;

const Process& process() {
  static Process only(nullptr, nullptr);
  return only;
}

std::string from_environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

const Tokenizer& tokenizer() {
  static std::unique_ptr<Tokenizer> loaded =
      load_tokenizer(from_environment("LLMFT_LLAMA3_TOKENIZER", "inputs/tiny/model"));
  return *loaded;
}

class Shards {
 public:
  Shards() : folder_(fs::temp_directory_path() / fmt::format("llmft-bench-data.{}", ::getpid())) {
    log::set_quiet(true);
    options_.input = from_environment("LLMFT_BENCH_INPUT", "inputs/tiny/sample.parquet");
    options_.output = folder_.string();
  }
  ~Shards() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  void make() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
    preprocess(process(), tokenizer(), options_);
  }
  const fs::path& folder() const { return folder_; }
  uint64_t text_bytes() const {
    std::vector<SourceFile> files = find_sources(options_.input);
    uint64_t bytes = 0;
    for (const SourcePiece& piece : cut_sources(files)) {
      auto reader = open_piece(files[piece.file], piece);
      for (Row row; reader->next(row);)
        bytes += row.system_prompt.size() + row.question.size() + row.response.size();
    }
    return bytes;
  }

 private:
  fs::path folder_;
  PreprocessOptions options_;
};

void parquet_to_shards(benchmark::State& state) {
  Shards shards;
  shards.make();
  for (auto _ : state) shards.make();
  state.SetBytesProcessed(
      static_cast<int64_t>(static_cast<uint64_t>(state.iterations()) * shards.text_bytes()));
}
BENCHMARK(parquet_to_shards)->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);

void report(benchmark::State& state, double tokens) {
  state.counters["tokens_per_second"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  // A rate inverted: seconds a token, times the tokens of a second.
  state.counters["step_share"] = benchmark::Counter(
      tokens / kTokensPerSecond, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void loader(benchmark::State& state) {
  Shards shards;
  shards.make();
  ShardSet set(shards.folder());
  Loader packs(set, {.pack_tokens = state.range(0)});
  uint64_t index = 0;
  uint64_t count = packs.packs_in_epoch(0);
  double tokens = 0;
  for (auto _ : state) {
    Pack pack = packs.pack(0, index++ % count);
    tokens += static_cast<double>(pack.tokens.size());
    benchmark::DoNotOptimize(pack.tokens.data());
  }
  report(state, tokens);
}
BENCHMARK(loader)->Arg(2048)->Arg(16384);

void loader_first_touch(benchmark::State& state) {
  Shards shards;
  shards.make();
  double tokens = 0;
  for (auto _ : state) {
    ShardSet set(shards.folder());
    Loader packs(set, {.pack_tokens = state.range(0)});
    for (uint64_t i = 0; i < packs.packs_in_epoch(0); ++i)
      tokens += static_cast<double>(packs.pack(0, i).tokens.size());
  }
  report(state, tokens);
}
BENCHMARK(loader_first_touch)->Arg(16384)->Unit(benchmark::kMillisecond);

}  // namespace
