// Speed of the tokenizer alone. Benchmarks of the parts run on made-up text with the vocabulary of
// inputs/tiny, or with LLMFT_LLAMA3_TOKENIZER. On a text of one's own, as tools/peers/tok_bench.py calls it:
//   bench_tokenizer --text TOKENIZER TEXT OFFSETS FORM ROUNDS PASSES [IDS]
// OFFSETS holds where TEXT's documents start, and its size, as u64. FORM: doc, one call and one result a
// document; batch, all ids in one vector that grows from nothing; buffer, TEXT as one document. A round is a
// new tokenizer, its first pass and PASSES repeated ones, timed in CPU time; one round more comes first, as
// in a process that has worked before, and is not counted. Prints JSON in MB/s; IDS gets the ids (u32) of all
// documents.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>

#include <benchmark/benchmark.h>

#include "llmft/base/file.hpp"
#include "llmft/tokenizer/char_masks.hpp"
#include "llmft/tokenizer/splitter.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace {

using namespace llmft;

// Words of a made-up language, frequent ones first as Zipf has it, with punctuation; every 200th is new.
std::string made_up_text(size_t bytes) {
  std::mt19937 random(1);
  auto word = [&] {
    std::string letters(2 + random() % 8, ' ');
    for (char& c : letters) c = static_cast<char>('a' + random() % 26);
    return letters;
  };
  std::vector<std::string> words(20000);
  std::generate(words.begin(), words.end(), word);
  std::string text;
  while (text.size() < bytes) {
    const double u = static_cast<double>(random() % 100000) / 100000;
    const auto rank = static_cast<size_t>(static_cast<double>(words.size()) * u * u * u);
    text += random() % 200 == 0 ? word() : words[rank];
    text += random() % 12 == 0    ? ", "
            : random() % 60 == 0  ? ".\n\n"
            : random() % 150 == 0 ? "'s 1234 é"
                                  : " ";
  }
  return text;
}

const std::string& sample() {
  static const std::string text = made_up_text(size_t{1} << 20);
  return text;
}

std::string tokenizer_file() {
  const char* given = std::getenv("LLMFT_LLAMA3_TOKENIZER");
  return given != nullptr ? given : "inputs/tiny/model/tokenizer.json";
}

void report_bytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * sample().size()));
}

void masks(benchmark::State& state, SimdTier tier) {
  std::vector<BlockMasks> blocks;
  for (auto _ : state) make_char_masks(sample(), blocks, tier);
  report_bytes(state);
}

void split(benchmark::State& state) {
  auto splitter = make_llama3_splitter();
  SplitScratch scratch;
  for (auto _ : state) splitter->split(sample(), scratch);
  report_bytes(state);
}

void encode_repeated(benchmark::State& state) {
  const auto tokenizer = load_tokenizer(tokenizer_file());
  std::vector<TokenId> ids;
  for (auto _ : state) {
    ids.clear();
    tokenizer->encode(sample(), ids);
  }
  report_bytes(state);
}

void encode_first(benchmark::State& state) {
  std::vector<TokenId> ids;
  for (auto _ : state) {
    state.PauseTiming();
    const auto tokenizer = load_tokenizer(tokenizer_file());
    ids.clear();
    state.ResumeTiming();
    tokenizer->encode(sample(), ids);
  }
  report_bytes(state);
}

void decode(benchmark::State& state) {
  const auto tokenizer = load_tokenizer(tokenizer_file());
  std::vector<TokenId> ids;
  tokenizer->encode(sample(), ids);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids));
  report_bytes(state);
}

BENCHMARK_CAPTURE(masks, portable, SimdTier::portable);
BENCHMARK_CAPTURE(masks, best, simd_tier());
BENCHMARK(split);
BENCHMARK(encode_repeated);
BENCHMARK(encode_first);
BENCHMARK(decode);

double cpu_seconds() {
  timespec time;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

int measure(char** arguments) {
  const std::string text = read_file(arguments[1]);
  const std::string offsets = read_file(arguments[2]);
  const std::string form = arguments[3];
  const int rounds = std::atoi(arguments[4]);
  const int passes = std::atoi(arguments[5]);
  std::vector<uint64_t> at(offsets.size() / sizeof(uint64_t));
  std::memcpy(at.data(), offsets.data(), at.size() * sizeof(uint64_t));
  if (form == "buffer") at = {0, text.size()};
  std::vector<TokenId> ids;
  auto pass = [&](const Tokenizer& tokenizer) {
    if (form != "doc") ids = {};
    const double start = cpu_seconds();
    for (size_t i = 0; i + 1 < at.size(); ++i) {
      if (form == "doc") ids.clear();
      tokenizer.encode(std::string_view(text).substr(at[i], at[i + 1] - at[i]), ids);
    }
    return static_cast<double>(text.size()) / 1e6 / (cpu_seconds() - start);
  };
  std::string first, repeated;
  auto add = [](std::string& list, double rate) {
    list += (list.empty() ? "" : ", ") + std::to_string(rate);
  };
  for (int round = 0; round <= rounds; ++round) {
    const auto tokenizer = load_tokenizer(arguments[0]);
    const double rate = pass(*tokenizer);
    if (round > 0) add(first, rate);
    for (int i = 0; round > 0 && i < passes; ++i) add(repeated, pass(*tokenizer));
  }
  std::printf("{\"first\": [%s], \"repeated\": [%s]}\n", first.c_str(), repeated.c_str());
  if (arguments[6] != nullptr) {
    const auto tokenizer = load_tokenizer(arguments[0]);
    ids.clear();
    for (size_t i = 0; i + 1 < at.size(); ++i)
      tokenizer->encode(std::string_view(text).substr(at[i], at[i + 1] - at[i]), ids);
    write_file_atomic(arguments[6],
                      {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(TokenId)});
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 8 && std::strcmp(argv[1], "--text") == 0) return measure(argv + 2);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
