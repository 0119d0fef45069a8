#include <atomic>
#include <condition_variable>

#include <doctest/doctest.h>

#include "../data/fake_tokenizer.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/serve/generation_queue.hpp"
#include "llmft/serve/service.hpp"
#include "scripted_engine.hpp"

using namespace llmft;

namespace {

std::vector<int32_t> prompt_of(const Tokenizer& tokenizer, const std::string& question) {
  std::vector<TokenId> ids;
  std::vector<ChatTurn> turns = {{ChatRole::user, question}};
  ChatTemplate(TemplateKind::automatic, tokenizer).encode_conversation(turns, ids);
  return {ids.begin(), ids.end()};
}

// What came of one request; wait() until its end.
struct Outcome {
  std::mutex mutex;
  std::condition_variable changed;
  std::string text;
  FinishReason finish = FinishReason::running;
  int after_end = 0;

  GenerationQueue::Sink sink() {
    return [this](const GenerationEvent& event) {
      std::lock_guard lock(mutex);
      if (finish != FinishReason::running) ++after_end;
      text += event.text;
      finish = event.finish;
      changed.notify_all();
    };
  }
  FinishReason wait() {
    std::unique_lock lock(mutex);
    REQUIRE(
        changed.wait_for(lock, std::chrono::seconds(10), [&] { return finish != FinishReason::running; }));
    return finish;
  }
  void wait_for_text() {
    std::unique_lock lock(mutex);
    REQUIRE(changed.wait_for(lock, std::chrono::seconds(10), [&] { return !text.empty(); }));
  }
};

struct Bench {
  ByteTokenizer tokenizer;
  ScriptedEngine engine;
  std::atomic<int> failures = 0;
  GenerationQueue queue;

  explicit Bench(ScriptedEngine::Settings settings = {}, int64_t waiting = 8)
      : engine(tokenizer, settings), queue(engine, waiting, [this] { ++failures; }) {}
  uint64_t ask(const std::string& question, Outcome& outcome) {
    GenerationRequest request{prompt_of(tokenizer, question), {}, AnswerWeights::base};
    request.sampling.max_tokens = 1 << 20;
    std::vector<GenerationQueue::Job> jobs;
    jobs.push_back({std::move(request), outcome.sink()});
    return queue.submit(std::move(jobs))[0];
  }
};

}  // namespace

TEST_CASE("every request gets its own text, from many threads at once") {
  Bench bench({}, 200);
  std::vector<Outcome> outcomes(100);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = static_cast<size_t>(t); i < outcomes.size(); i += 4)
        bench.ask(fmt::format("say number {}", i), outcomes[i]);
    });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    CHECK(outcomes[i].wait() == FinishReason::stop);
    CHECK(outcomes[i].text == fmt::format("number {}", i));
    CHECK(outcomes[i].after_end == 0);
  }
  CHECK(bench.queue.held() == 0);
}

TEST_CASE("what does not fit is refused as a whole, and a cancelled request makes room") {
  Bench bench({.max_sequences = 2, .step_seconds = 0.001}, 1);
  std::vector<Outcome> held(3);
  std::vector<uint64_t> numbers;
  for (Outcome& outcome : held) numbers.push_back(bench.ask("slow 100000", outcome));
  Outcome refused;
  CHECK_THROWS_AS(bench.ask("say no", refused), QueueFull);
  held[0].wait_for_text();
  bench.queue.cancel(numbers[0]);
  CHECK(held[0].wait() == FinishReason::cancelled);
  Outcome taken;
  bench.ask("say yes", taken);
  bench.queue.cancel(numbers[1]);
  bench.queue.cancel(numbers[2]);
  bench.queue.cancel(987654);  // unknown: ignored
  CHECK(taken.wait() == FinishReason::stop);
  CHECK(taken.text == "yes");
}

TEST_CASE("a bad request among several takes the others with it") {
  Bench bench({.max_context = 64, .step_seconds = 0.001});
  Outcome good, bad;
  std::vector<GenerationQueue::Job> jobs(2);
  jobs[0] = {{prompt_of(bench.tokenizer, "slow 100000"), {}, AnswerWeights::base}, good.sink()};
  jobs[1] = {{std::vector<int32_t>(100, 65), {}, AnswerWeights::base}, bad.sink()};
  bool accepted = false;
  CHECK_THROWS_AS(bench.queue.submit(std::move(jobs), [&] { accepted = true; }), UserError);
  CHECK_FALSE(accepted);
  for (int i = 0; i < 1000 && bench.queue.held() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(bench.queue.held() == 0);
  CHECK(good.finish == FinishReason::running);  // its sink was never to be called
}

TEST_CASE("stop() and a breaking engine end every request") {
  {
    Bench bench({.step_seconds = 0.001});
    Outcome outcome;
    bench.ask("slow 100000", outcome);
    outcome.wait_for_text();
    bench.queue.stop();
    CHECK(outcome.wait() == FinishReason::cancelled);
    Outcome late;
    CHECK_THROWS_AS(bench.ask("say late", late), QueueEnding);
    CHECK(bench.failures == 0);
    CHECK(bench.queue.failure() == nullptr);
  }
  Bench bench;
  Outcome outcome;
  bench.ask("boom", outcome);
  CHECK(outcome.wait() == FinishReason::cancelled);
  bench.queue.stop();
  CHECK(bench.failures == 1);
  CHECK_THROWS_WITH(std::rethrow_exception(bench.queue.failure()), doctest::Contains("broke"));
}

TEST_CASE("models are named by their folders") {
  CHECK(model_names("/a/Llama-3.2-1B", "").base == "Llama-3.2-1B");
  CHECK(model_names("/a/Llama-3.2-1B/", "").adapted.empty());
  CHECK(model_names("/a/base", "/runs/orca/adapter").adapted == "orca");
  CHECK(model_names("/a/base", "/runs/orca/adapter/").adapted == "orca");
  CHECK(model_names("/runs/full/model", "/runs/full/adapter").base == "full");
  CHECK(model_names("/runs/full/model", "/runs/full/adapter").adapted == "full-adapter");
}
