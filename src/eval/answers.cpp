#include "answers.hpp"

#include <algorithm>
#include <map>

#include <nlohmann/json.hpp>

#include "llmft/base/progress.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/generate/make_engine.hpp"

namespace llmft {
namespace {

std::string text_of(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  std::vector<TokenId> ids(tokens.begin(), tokens.end());
  return tokenizer.decode(ids);
}

}  // namespace

std::vector<Answered> answer_samples(LoadedModel& model, const Tokenizer& tokenizer, const ShardSet& shards,
                                     const std::vector<uint64_t>& samples, const EvalOptions& options) {
  std::vector<Answered> out;
  if (samples.empty()) return out;
  auto end = static_cast<int32_t>(shards.manifest().tokenizer.eot);
  int64_t longest = 0;
  for (uint64_t sample : samples) longest = std::max<int64_t>(longest, shards.loss_start(sample));
  bool cuda = model.device().kind() == DeviceKind::cuda;
  EngineOptions limits{.max_context = longest + options.max_tokens,
                       .max_sequences = options.sequences > 0 ? options.sequences
                                        : cuda                ? 64
                                                              : 8};
  if (end >= 0) limits.end_tokens.push_back(end);
  auto engine = make_engine(model, limits, tokenizer);

  std::map<uint64_t, std::pair<size_t, int>> asked;  // request -> place, system
  for (uint64_t sample : samples) {
    std::vector<int32_t> tokens;
    shards.append_tokens(sample, tokens);
    size_t start = shards.loss_start(sample);
    std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(start));
    std::span<const int32_t> response = std::span(tokens).subspan(start);
    if (!response.empty() && response.back() == end) response = response.first(response.size() - 1);
    out.push_back({.sample = sample,
                   .prompt = text_of(tokenizer, prompt),
                   .reference = std::string(strip(text_of(tokenizer, response)))});
    for (int system = 0; system < (model.has_adapter() ? 2 : 1); ++system) {
      GenerationRequest request{
          .prompt = prompt,
          .sampling = {.temperature = options.temperature,
                       .top_k = options.top_k,
                       .top_p = options.top_p,
                       // the same for both, and another for every sample
                       .seed = mix64(static_cast<uint64_t>(options.seed) ^ mix64(sample)),
                       .max_tokens = options.max_tokens},
          .weights = system == 1 ? AnswerWeights::adapted : AnswerWeights::base};
      asked[engine->submit(std::move(request))] = {out.size() - 1, system};
    }
  }
  Progress progress("answers", asked.size());
  uint64_t done = 0;
  while (!engine->idle())
    for (const GenerationEvent& event : engine->step()) {
      auto [place, system] = asked.at(event.request);
      Answered& a = out[place];
      a.answers[system] += event.text;
      a.tokens[system] += static_cast<int64_t>(event.tokens.size());
      if (event.finish == FinishReason::running) continue;
      a.finishes[system] = name_of(event.finish);
      a.answers[system] = strip(a.answers[system]);
      progress.update(++done, "");
    }
  progress.finish("");
  return out;
}

std::string to_text(const std::vector<Answered>& answers) {
  nlohmann::json out = nlohmann::json::array();
  for (const Answered& a : answers)
    out.push_back({a.sample, a.prompt, a.reference, a.answers[0], a.answers[1], a.finishes[0], a.finishes[1],
                   a.tokens[0], a.tokens[1]});
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void append_text(const std::string& text, std::vector<Answered>& answers) {
  for (const auto& row : nlohmann::json::parse(text))
    answers.push_back({row[0],
                       row[1],
                       row[2],
                       {row[3].get<std::string>(), row[4].get<std::string>()},
                       {row[5].get<std::string>(), row[6].get<std::string>()},
                       {row[7].get<int64_t>(), row[8].get<int64_t>()}});
}

}  // namespace llmft
