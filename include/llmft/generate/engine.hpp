// Text generation for many requests at once (continuous batching): requests join and leave the running batch
// between steps. One thread drives step(); submit() and cancel() may be called from any thread. The text of a
// request depends on its prompt, sampling and seed alone, up to the rounding of the batch's matrix products.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llmft {

// Which weights answer: the base model, or the base with the adapter that was loaded beside it.
enum class AnswerWeights { base, adapted };
enum class FinishReason { running, stop, length, cancelled };
const char* name_of(FinishReason reason);  // OpenAI's words: "stop", "length"; "cancelled"

struct SamplingParams {
  double temperature = 1;         // 0: greedy
  int64_t top_k = 0;              // 0: off
  double top_p = 1;               // 1: off
  double min_p = 0;               // 0: off
  double repetition_penalty = 1;  // 1: off; Hugging Face's rule
  uint64_t seed = 0;
  int64_t max_tokens = 256;
  std::vector<std::string> stop;  // text; never part of the answer
};

struct GenerationRequest {
  std::vector<int32_t> prompt;  // tokens, with the template's special tokens
  SamplingParams sampling;
  AnswerWeights weights = AnswerWeights::base;
};

// What one step brought a request.
struct GenerationEvent {
  uint64_t request = 0;
  std::vector<int32_t> tokens;  // new ones; the end-of-turn token is not among them
  std::string text;             // whole UTF-8 characters; what might yet be a stop string is held back
  FinishReason finish = FinishReason::running;
};

struct EngineStats {
  int64_t waiting = 0;
  int64_t running = 0;
  int64_t prompt_tokens = 0;     // since the start
  int64_t cached_tokens = 0;     // of these, taken from a shared prefix
  int64_t generated_tokens = 0;  // since the start
  double busy_seconds = 0;       // in step()
};

class Engine {
 public:
  virtual ~Engine() = default;
  // Longest prompt + answer in tokens.
  virtual int64_t max_context() const = 0;
  // Requests generated at the same time; others wait.
  virtual int64_t max_sequences() const = 0;
  virtual bool has_adapter() const = 0;

  // The request's number. UserError: empty prompt, prompt longer than max_context() - 1, a token outside the
  // vocabulary, sampling out of range, `adapted` without an adapter.
  virtual uint64_t submit(GenerationRequest request) = 0;
  // Its last event then has finish == cancelled; unknown or finished numbers are ignored.
  virtual void cancel(uint64_t request) = 0;

  // Admits waiting requests, then advances every running one by one token (or its prompt by a piece). No
  // work: returns at once with nothing.
  virtual std::vector<GenerationEvent> step() = 0;
  virtual bool idle() const = 0;
  virtual EngineStats stats() const = 0;
};

}  // namespace llmft
