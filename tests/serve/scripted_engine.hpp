// An Engine whose answers are written down: what the last question asks for decides what is answered, a token
// (a word) a step for each running request. It holds to Engine's contract, so that what is built on it meets
// nothing new later.
//   "slow N"      a number a step, N of them        "say TEXT"   TEXT, word by word
//   "boom"        step() throws                     otherwise    "WEIGHTS heard: QUESTION"
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/generate/engine.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

class ScriptedEngine : public llmft::Engine {
 public:
  struct Settings {
    int64_t max_context = 2048;
    int64_t max_sequences = 8;
    bool adapter = true;
    double step_seconds = 0;
  };
  ScriptedEngine(const llmft::Tokenizer& tokenizer, Settings settings)
      : tokenizer_(tokenizer), settings_(settings) {}

  int64_t max_context() const override { return settings_.max_context; }
  int64_t max_sequences() const override { return settings_.max_sequences; }
  bool has_adapter() const override { return settings_.adapter; }

  uint64_t submit(llmft::GenerationRequest request) override {
    if (static_cast<int64_t>(request.prompt.size()) > settings_.max_context - 1)
      llmft::user_error("prompt: too long");
    if (request.weights == llmft::AnswerWeights::adapted && !settings_.adapter)
      llmft::user_error("no adapter");
    std::lock_guard lock(mutex_);
    stats_.prompt_tokens += static_cast<int64_t>(request.prompt.size());
    uint64_t number = ++last_;
    waiting_.push_back({number, script(request), request.sampling, 0, false, last_prompt_ = request.prompt});
    ++stats_.waiting;
    return number;
  }
  void cancel(uint64_t request) override {
    std::lock_guard lock(mutex_);
    for (auto* list : {&waiting_, &running_})
      for (Running& one : *list)
        if (one.number == request) one.cancelled = true;
  }
  std::vector<llmft::GenerationEvent> step() override {
    std::this_thread::sleep_for(std::chrono::duration<double>(settings_.step_seconds));
    std::lock_guard lock(mutex_);
    while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < settings_.max_sequences) {
      running_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    std::vector<llmft::GenerationEvent> events;
    std::deque<Running> still;
    for (auto* list : {&running_, &waiting_})
      for (Running& one : *list) {
        if (list == &waiting_ && !one.cancelled) continue;
        llmft::GenerationEvent event{.request = one.number, .tokens = {}, .text = {}};
        advance(one, event);
        if (event.finish == llmft::FinishReason::running) still.push_back(std::move(one));
        events.push_back(std::move(event));
      }
    running_ = std::move(still);
    std::erase_if(waiting_, [](const Running& one) { return one.cancelled; });
    stats_.waiting = static_cast<int64_t>(waiting_.size());
    stats_.running = static_cast<int64_t>(running_.size());
    return events;
  }
  bool idle() const override {
    std::lock_guard lock(mutex_);
    return waiting_.empty() && running_.empty();
  }
  llmft::EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  std::string last_prompt() const {
    std::lock_guard lock(mutex_);
    std::vector<llmft::TokenId> ids(last_prompt_.begin(), last_prompt_.end());
    return tokenizer_.decode(ids);
  }

 private:
  struct Running {
    uint64_t number;
    std::vector<std::string> words;
    llmft::SamplingParams sampling;
    size_t next = 0;
    bool cancelled = false;
    std::vector<int32_t> prompt;
  };

  static std::vector<std::string> words_of(const std::string& text) {
    std::vector<std::string> words(1);
    for (char c : text) {
      if (c == ' ' && !words.back().empty()) words.emplace_back();
      words.back() += c;
    }
    return words;
  }
  std::vector<std::string> script(const llmft::GenerationRequest& request) const {
    std::vector<llmft::TokenId> ids(request.prompt.begin(), request.prompt.end());
    std::string text = tokenizer_.decode(ids);
    auto between = [&](const std::string& start, const std::string& end) {
      size_t from = text.rfind(start);
      if (from == std::string::npos) return text;
      from += start.size();
      return text.substr(from, text.find(end, from) - from);
    };
    std::string question = between("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>");
    if (question.starts_with("say ")) return words_of(question.substr(4));
    if (question.starts_with("slow ")) {
      std::vector<std::string> words;
      for (int i = 1; i <= std::stoi(question.substr(5)); ++i) words.push_back(std::to_string(i) + " ");
      return words;
    }
    if (question == "boom") return {"boom"};
    bool base = request.weights == llmft::AnswerWeights::base;
    return words_of((base ? "base heard: " : "adapted heard: ") + question);
  }
  void advance(Running& one, llmft::GenerationEvent& event) {
    if (one.cancelled) {
      event.finish = llmft::FinishReason::cancelled;
      return;
    }
    if (one.words == std::vector<std::string>{"boom"})
      throw std::runtime_error("the engine broke (as it was told to)");
    if (one.next == one.words.size()) {
      event.finish = llmft::FinishReason::stop;
      return;
    }
    event.tokens.push_back(1);
    event.text = one.words[one.next++];
    ++stats_.generated_tokens;
    for (const std::string& stop : one.sampling.stop)
      if (size_t at = event.text.find(stop); at != std::string::npos) {
        event.text.resize(at);
        event.finish = llmft::FinishReason::stop;
      }
    if (static_cast<int64_t>(one.next) == one.sampling.max_tokens &&
        event.finish == llmft::FinishReason::running)
      event.finish = llmft::FinishReason::length;
  }

  const llmft::Tokenizer& tokenizer_;
  Settings settings_;
  mutable std::mutex mutex_;
  std::deque<Running> waiting_;
  std::deque<Running> running_;
  std::vector<int32_t> last_prompt_;
  llmft::EngineStats stats_;
  uint64_t last_ = 0;
};
