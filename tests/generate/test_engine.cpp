#include <algorithm>
#include <cmath>
#include <map>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/base/text.hpp"
#include "llmft/generate/inference_model.hpp"
#include "llmft/generate/make_engine.hpp"
#include "train/fixture.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

const fs::path kTiny = source_folder() / "inputs/tiny/model";

struct Answer {
  std::vector<int32_t> tokens;
  std::string text;
  FinishReason finish = FinishReason::running;
  bool operator==(const Answer&) const = default;
};

std::map<uint64_t, Answer> run(Engine& engine) {
  std::map<uint64_t, Answer> out;
  for (int steps = 0; !engine.idle(); ++steps) {
    REQUIRE(steps < 100000);
    for (const GenerationEvent& e : engine.step()) {
      Answer& a = out[e.request];
      CHECK(a.finish == FinishReason::running);  // nothing comes after the end
      a.tokens.insert(a.tokens.end(), e.tokens.begin(), e.tokens.end());
      a.text += e.text;
      a.finish = e.finish;
    }
  }
  return out;
}

const Tokenizer& tokenizer() {
  static auto made = load_tokenizer(kTiny);
  return *made;
}

EngineOptions tiny(int64_t sequences, int64_t prefill = 0) {
  return {.source = {.model = kTiny, .device = DeviceChoice::cpu, .threads = 1},
          .max_context = 512,
          .max_sequences = sequences,
          .prefill_tokens = prefill};
}

std::vector<int32_t> random_tokens(size_t n, uint64_t stream) {
  CounterRng rng(7, stream);
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(rng.below(i, 1700));
  return out;
}

SamplingParams greedy(int64_t tokens) {
  return {.temperature = 0, .max_tokens = tokens};
}

template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

namespace {

void compare_with_golden(const EngineOptions& options) {
  auto cases = nlohmann::json::parse(read_file(kGolden / "generate/greedy.json"));
  REQUIRE(cases.size() == 100);
  auto engine = make_engine(options, tokenizer());
  std::map<uint64_t, size_t> of;
  for (size_t i = 0; i < cases.size(); ++i) {
    SamplingParams sampling = greedy(32);
    sampling.repetition_penalty = cases[i]["penalty"];
    of[engine->submit({.prompt = cases[i]["prompt"], .sampling = sampling})] = i;
  }
  auto answers = run(*engine);
  CHECK(answers.size() == cases.size());
  for (auto& [id, answer] : answers) {
    const auto& expected = cases[of.at(id)];
    CAPTURE(of.at(id));
    CHECK(answer.tokens == expected["answer"].get<std::vector<int32_t>>());
    CHECK(answer.text == expected["text"].get<std::string>());
    CHECK(name_of(answer.finish) == expected["finish"].get<std::string>());
  }
  EngineStats stats = engine->stats();
  CHECK(stats.running == 0);
  CHECK(stats.waiting == 0);
  CHECK(stats.cached_tokens > 0);  // many share their system prompt
  CHECK(stats.generated_tokens > 0);
}

}  // namespace

TEST_CASE("greedy answers equal transformers' for 100 prompts, alone and many at once") {
  compare_with_golden(tiny(1));
  compare_with_golden(tiny(16));
  compare_with_golden(tiny(7, 19));
}

namespace {

// i32 on the device of a model.
struct List {
  Buffer buffer;
  Indices view;
  List(Device& device, const std::vector<int32_t>& values)
      : buffer(device, values.size() * sizeof(int32_t), MemoryPart::workspace),
        view{static_cast<const int32_t*>(buffer.data()), static_cast<int64_t>(values.size())} {
    device.copy_to_device(buffer.data(), values.data(), values.size() * sizeof(int32_t));
  }
};

// Base and adapter rows, by cache and without, piece by piece: all the same numbers as the training
// forward's.
void compare_with_training(const fs::path& folder, const fs::path& adapter, Precision precision,
                           DeviceChoice device) {
  LoadedModel loaded(
      {.model = folder, .adapter = adapter, .device = device, .precision = precision, .threads = 1});
  Model adapted(folder, read_adapter_config(adapter), adapter, precision);
  Model base(folder, {.rank = 1}, {}, precision);
  constexpr int64_t kLength = 21;
  InferenceModel model(loaded.tensors(), loaded.recipe(), loaded.ops(), loaded.decode(), loaded.store(),
                       {.max_rows = 2 * kLength, .logits_rows = 2 * kLength, .slots = 3, .context = 40});
  int64_t vocabulary = loaded.config().vocab_size;
  std::vector<int32_t> tokens(kLength), rows(kLength);
  CounterRng rng(3, 1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(rng.below(i, static_cast<uint64_t>(vocabulary)));
    rows[i] = static_cast<int32_t>(i);
  }
  Documents documents;
  documents.add(tokens, 1);
  std::vector<float> wanted[2];
  for (int a = 0; a < 2; ++a) {
    wanted[a].resize(static_cast<size_t>(kLength * vocabulary));
    (a == 0 ? base : adapted)
        .llama->logits(documents.view(), rows, matrix_view(wanted[a].data(), kLength, vocabulary));
  }
  double spread = 0, apart = 0;
  for (size_t i = 0; i < wanted[0].size(); ++i) {
    spread = std::max<double>(spread, std::abs(wanted[0][i]));
    apart = std::max<double>(apart, std::abs(wanted[0][i] - wanted[1][i]));
  }
  double tolerance = spread * (precision == Precision::fp32 ? 2e-5 : 0.04);
  CHECK(apart > tolerance);  // the adapter shows

  enum class How { packed, first_packed, through_cache };
  enum class Who { base_alone, both };
  // positions [from, to) of two sequences
  auto compare = [&](int64_t from, int64_t to, How how, Who who) {
    std::vector<int32_t> t, p, s, a, bounds{0};
    for (int sequence = 0; sequence < 2; ++sequence) {
      for (int64_t i = from; i < to; ++i) {
        t.push_back(tokens[static_cast<size_t>(i)]);
        p.push_back(static_cast<int32_t>(i));
        s.push_back(2 - sequence);
        a.push_back(who == Who::both ? sequence : 0);
      }
      bounds.push_back(static_cast<int32_t>(t.size()));
    }
    Device& d = loaded.device();
    if (how != How::packed) bounds.resize(how == How::first_packed ? 2 : 0);
    int64_t whole = bounds.empty() ? 0 : bounds.back();
    bounds.resize(3);
    List lt(d, t), lp(d, p), ls(d, s), la(d, a), lb(d, bounds);
    model.forward({.tokens = lt.view,
                   .positions = lp.view,
                   .slots = ls.view,
                   .cu_seqlens = {lb.view.data, whole == 0 ? 0 : 1 + whole / (to - from)},
                   .adapted = who == Who::both ? la.view : Indices{},
                   .whole = whole,
                   .longest = to});
    Tensor logits = model.logits({nullptr, lt.view.size});
    std::vector<float> got(static_cast<size_t>(logits.numel()));
    d.copy_to_host(got.data(), logits.data, logits.bytes());
    d.synchronize();
    double worst = 0;
    for (size_t r = 0; r < t.size(); ++r)
      for (size_t v = 0; v < static_cast<size_t>(vocabulary); ++v) {
        auto width = static_cast<size_t>(vocabulary);
        worst = std::max<double>(
            worst, std::abs(got[r * width + v] - wanted[a[r]][static_cast<size_t>(p[r]) * width + v]));
      }
    CHECK(worst <= tolerance);
  };
  compare(0, kLength, How::packed, Who::both);
  compare(0, kLength, How::first_packed, Who::both);
  compare(0, 5, How::packed, Who::both);
  compare(5, 13, How::through_cache, Who::both);
  for (int64_t i = 13; i < kLength; ++i) compare(i, i + 1, How::through_cache, Who::both);
  compare(0, 9, How::packed, Who::base_alone);
  compare(9, 11, How::through_cache, Who::base_alone);
  for (int64_t i = 11; i < kLength; ++i) compare(i, i + 1, How::through_cache, Who::base_alone);
}

void compare_all(DeviceChoice device) {
  for (const char* name : {"parity_tied", "parity_untied"})
    for (const char* lora : {"lora_qvo", "lora_all_rs"})
      for (Precision precision : {Precision::fp32, Precision::bf16}) {
        CAPTURE(name);
        CAPTURE(lora);
        CAPTURE(std::string(name_of(precision)));
        compare_with_training(kGolden / name / "model", kGolden / name / lora / "adapter", precision, device);
      }
}

bool no_gpu() {
  if (cuda_device_count() > 0) return false;
  MESSAGE("skipped: no GPU on this machine");
  return true;
}

}  // namespace

TEST_CASE("logits equal the training forward's, base and adapter in one batch") {
  compare_all(DeviceChoice::cpu);
}

TEST_CASE("CUDA: logits equal the training forward's, base and adapter in one batch") {
  if (!no_gpu()) compare_all(DeviceChoice::cuda);
}

TEST_CASE("CUDA: greedy answers equal transformers' for 100 prompts, steps recorded and replayed") {
  if (no_gpu()) return;
  EngineOptions options = tiny(1);
  options.source.device = DeviceChoice::cuda;
  options.source.precision = Precision::fp32;
  for (int64_t sequences : {1, 3, 40}) {
    options.max_sequences = sequences;
    compare_with_golden(options);
  }
}

TEST_CASE("CUDA: records of one engine are not replayed by the next one on the same model") {
  if (no_gpu()) return;
  EngineOptions options = tiny(2);
  options.source.device = DeviceChoice::cuda;
  options.source.precision = Precision::fp32;
  LoadedModel model(options.source);
  auto ask = [&](Engine& engine, uint64_t stream) {
    engine.submit({.prompt = random_tokens(30, stream), .sampling = greedy(24)});
    return run(engine).begin()->second;
  };
  Answer alone = ask(*make_engine(model, options, tokenizer()), 1);
  auto first = make_engine(model, options, tokenizer()), second = make_engine(model, options, tokenizer());
  for (int i = 0; i < 2; ++i) {
    CHECK(ask(*first, 1) == alone);
    CHECK(ask(*second, 2) != alone);
  }
  CHECK(ask(*second, 1) == alone);
}

TEST_CASE("CUDA: the same requests in bf16 get the same answers, another seed another one") {
  if (no_gpu()) return;
  EngineOptions options = tiny(8);
  options.source.device = DeviceChoice::cuda;
  options.source.precision = Precision::bf16;
  auto ask_all = [&] {
    auto engine = make_engine(options, tokenizer());
    for (uint64_t seed : {1, 2, 3})
      engine->submit({.prompt = random_tokens(30, 1),
                      .sampling = {.temperature = 1, .top_p = 0.9, .seed = seed, .max_tokens = 16}});
    return run(*engine);
  };
  auto answers = ask_all();
  CHECK(answers.begin()->second.tokens.size() == 16);
  CHECK(answers.begin()->second.tokens != answers.rbegin()->second.tokens);
  CHECK(ask_all() == answers);
}

TEST_CASE("a request's answer does not depend on its neighbours, and its seed decides it") {
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < 9; ++i) prompts.push_back(random_tokens(3 + 11 * i, i));
  SamplingParams sampling{
      .temperature = 1.5, .top_k = 50, .top_p = 0.95, .min_p = 0.01, .seed = 5, .max_tokens = 20};
  std::vector<Answer> alone;
  for (const auto& prompt : prompts) {
    auto engine = make_engine(tiny(1), tokenizer());
    engine->submit({.prompt = prompt, .sampling = sampling});
    alone.push_back(run(*engine).begin()->second);
    CHECK(alone.back().tokens.size() == 20);
  }
  auto engine = make_engine(tiny(4, 16), tokenizer());
  std::vector<uint64_t> ids;
  for (const auto& prompt : prompts) ids.push_back(engine->submit({.prompt = prompt, .sampling = sampling}));
  auto together = run(*engine);
  for (size_t i = 0; i < prompts.size(); ++i) CHECK(together.at(ids[i]) == alone[i]);
  sampling.seed = 6;
  engine->submit({.prompt = prompts[4], .sampling = sampling});
  CHECK(run(*engine).begin()->second.tokens != alone[4].tokens);
}

TEST_CASE("requests join while others run; the context bounds prompt and answer") {
  auto engine = make_engine(tiny(2), tokenizer());
  CHECK(engine->max_context() == 512);
  uint64_t first = engine->submit({.prompt = random_tokens(500, 1), .sampling = greedy(100)});
  std::map<uint64_t, int64_t> counts;
  auto count = [&](const std::vector<GenerationEvent>& events) {
    for (const auto& e : events) counts[e.request] += static_cast<int64_t>(e.tokens.size());
  };
  count(engine->step());
  count(engine->step());
  CHECK(counts[first] == 2);
  uint64_t second = engine->submit({.prompt = random_tokens(4, 2), .sampling = greedy(3)});
  uint64_t third = engine->submit({.prompt = random_tokens(4, 3), .sampling = greedy(3)});
  CHECK(engine->stats().waiting == 2);
  count(engine->step());
  CHECK(engine->stats().waiting == 1);
  CHECK(engine->stats().running == 2);
  while (!engine->idle()) count(engine->step());
  CHECK(counts[first] == 12);
  CHECK(counts[second] == 3);
  CHECK(counts[third] == 3);
  CHECK(engine->step().empty());
}

TEST_CASE("cancelled requests leave, waiting or running, and free their place") {
  auto engine = make_engine(tiny(1), tokenizer());
  uint64_t a = engine->submit({.prompt = random_tokens(8, 1), .sampling = greedy(400)});
  uint64_t b = engine->submit({.prompt = random_tokens(8, 2), .sampling = greedy(400)});
  uint64_t c = engine->submit({.prompt = random_tokens(8, 3), .sampling = greedy(4)});
  engine->step();
  engine->cancel(b);
  engine->cancel(999);
  engine->step();
  engine->cancel(a);
  auto answers = run(*engine);
  CHECK(answers.at(a).finish == FinishReason::cancelled);
  CHECK(answers.at(c).finish == FinishReason::length);
  CHECK(answers.at(c).tokens.size() == 4);
  CHECK(engine->stats().running == 0);
  CHECK(engine->stats().waiting == 0);
  engine->cancel(c);
  CHECK(engine->step().empty());
}

TEST_CASE("a shared beginning is computed once") {
  auto engine = make_engine(tiny(4), tokenizer());
  auto prompt = random_tokens(100, 1);
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 6; ++i) {
    prompts.push_back(prompt);
    auto own = random_tokens(10, static_cast<uint64_t>(10 + i));
    prompts.back().insert(prompts.back().end(), own.begin(), own.end());
  }
  std::vector<uint64_t> ids;
  for (const auto& p : prompts) ids.push_back(engine->submit({.prompt = p, .sampling = greedy(8)}));
  auto together = run(*engine);
  CHECK(engine->stats().prompt_tokens == 660);
  CHECK(engine->stats().cached_tokens >= 500);
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto fresh = make_engine(tiny(1), tokenizer());
    fresh->submit({.prompt = prompts[i], .sampling = greedy(8)});
    CHECK(run(*fresh).begin()->second == together.at(ids[i]));
  }
  // a conversation's next turn goes on where the last one ended
  auto next = prompts[5];
  next.insert(next.end(), together.at(ids[5]).tokens.begin(), together.at(ids[5]).tokens.end());
  next.push_back(17);
  int64_t before = engine->stats().cached_tokens;
  engine->submit({.prompt = next, .sampling = greedy(2)});
  run(*engine);
  CHECK(engine->stats().cached_tokens - before >= 116);
}

TEST_CASE("stop strings end the answer and are not part of it") {
  auto cases = nlohmann::json::parse(read_file(kGolden / "generate/greedy.json"));
  auto engine = make_engine(tiny(1), tokenizer());
  int tried = 0;
  for (const auto& c : cases) {
    std::string text = c["text"];
    if (c["penalty"] == 1.0 || text.size() < 40 || text.find("\xef\xbf\xbd") != std::string::npos) continue;
    // across token borders, starting inside one
    size_t at = 11;
    while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
    std::string stop = text.substr(at, 9);
    if (valid_utf8_prefix(stop) != stop.size()) continue;
    SamplingParams sampling = greedy(32);
    sampling.repetition_penalty = c["penalty"];
    sampling.stop = {"never in it", "", stop};
    engine->submit({.prompt = c["prompt"], .sampling = sampling});
    Answer answer = run(*engine).begin()->second;
    CHECK(answer.text == text.substr(0, text.find(stop)));
    CHECK(answer.finish == FinishReason::stop);
    ++tried;
  }
  CHECK(tried >= 5);
}

TEST_CASE("an answer ends at an end-of-turn token, which is not part of it") {
  LoadedModel model({.model = kTiny, .device = DeviceChoice::cpu, .threads = 1});
  auto configured = nlohmann::json::parse(read_file(kTiny / "generation_config.json"))["eos_token_id"];
  for (int32_t id : configured) CHECK(std::ranges::count(model.end_tokens(), id) == 1);
  CHECK(configured.size() > 1);
  auto cases = nlohmann::json::parse(read_file(kGolden / "generate/greedy.json"));
  int tried = 0;
  for (size_t i = 0; i < cases.size(); i += 9) {
    auto answer = cases[i]["answer"].get<std::vector<int32_t>>();
    EngineOptions options = tiny(1);
    options.end_tokens = {answer.at(answer.size() / 2)};
    auto engine = make_engine(options, tokenizer());
    SamplingParams sampling = greedy(32);
    sampling.repetition_penalty = cases[i]["penalty"];
    engine->submit({.prompt = cases[i]["prompt"], .sampling = sampling});
    Answer got = run(*engine).begin()->second;
    answer.erase(std::ranges::find(answer, options.end_tokens[0]), answer.end());
    CHECK(got.tokens == answer);
    std::string text = got.text;  // a character that was never finished shows as U+FFFD
    while (text.ends_with("\xef\xbf\xbd")) text.resize(text.size() - 3);
    CHECK(cases[i]["text"].get<std::string>().starts_with(text));
    CHECK(got.finish == FinishReason::stop);
    CHECK(engine->idle());
    tried += !answer.empty();
  }
  CHECK(tried >= 3);
}

TEST_CASE("every setting of sampling reaches the sampler") {
  auto prompt = random_tokens(20, 4);
  auto ask = [&](SamplingParams sampling) {
    sampling.max_tokens = 12;
    sampling.seed = 9;
    auto engine = make_engine(tiny(1), tokenizer());
    engine->submit({.prompt = prompt, .sampling = sampling});
    return run(*engine).begin()->second.tokens;
  };
  auto likeliest = ask({.temperature = 0}), drawn = ask({.temperature = 2});
  CHECK(likeliest != drawn);
  CHECK(ask({.temperature = 2, .top_k = 1}) == likeliest);
  CHECK(ask({.temperature = 2, .top_p = 0}) == likeliest);
  CHECK(ask({.temperature = 2, .min_p = 1}) == likeliest);
  CHECK(ask({.temperature = 1e-4}) == likeliest);
  CHECK(ask({.temperature = 0, .repetition_penalty = 3}) != likeliest);
  CHECK(ask({.temperature = 2, .top_k = 3}) != drawn);
  CHECK(ask({.temperature = 2, .top_k = 3}) != likeliest);
}

TEST_CASE("bad requests and limits are refused with a reason") {
  auto engine = make_engine(tiny(1), tokenizer());
  auto submit = [&](std::vector<int32_t> prompt, SamplingParams sampling = {},
                    AnswerWeights weights = AnswerWeights::base) {
    return refusal([&] { engine->submit({std::move(prompt), sampling, weights}); });
  };
  CHECK(submit({}).find("no tokens") != std::string::npos);
  CHECK(submit(random_tokens(512, 1)).find("511 is the most") != std::string::npos);
  CHECK(submit({1, 2048}).find("2048") != std::string::npos);
  CHECK(submit({-1}).find("vocabulary") != std::string::npos);
  CHECK(submit({1}, {}, AnswerWeights::adapted).find("adapter") != std::string::npos);
  CHECK(submit({1}, {.temperature = -1}).find("temperature") != std::string::npos);
  CHECK(submit({1}, {.temperature = std::nan("")}).find("temperature") != std::string::npos);
  CHECK(submit({1}, {.top_p = 1.5}).find("top_p") != std::string::npos);
  CHECK(submit({1}, {.top_k = -3}).find("top_k") != std::string::npos);
  CHECK(submit({1}, {.min_p = 2}).find("min_p") != std::string::npos);
  CHECK(submit({1}, {.repetition_penalty = 0}).find("repetition_penalty") != std::string::npos);
  CHECK(submit({1}, {.max_tokens = 0}).find("max_tokens") != std::string::npos);
  CHECK(engine->idle());
  EngineOptions none = tiny(0);
  CHECK(refusal([&] { make_engine(none, tokenizer()); }).find("0 sequences") != std::string::npos);
  EngineOptions lost = tiny(1);
  lost.source.adapter = "/no/such/folder";
  CHECK(refusal([&] { make_engine(lost, tokenizer()); }).find("adapter_config.json") != std::string::npos);
}
