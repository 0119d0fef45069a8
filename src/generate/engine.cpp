// A step is: what was cancelled leaves; tokens that the device has drawn are handed to their requests, which
// may end; waiting requests move in; the next forward passes are launched. On a device that works beside the
// host the launch is the end of step(), so it computes while the caller deals with the events; otherwise it
// is its beginning, so that no token waits for the next.
#include "llmft/generate/engine.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <list>
#include <mutex>
#include <set>

#include "batch_runner.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/generate/make_engine.hpp"
#include "slot_table.hpp"
#include "text_stream.hpp"

namespace llmft {
namespace {

constexpr uint64_t kSampleStream = 0x73616d706c65;  // of CounterRng
// A prompt waits a step when the one before it is computing at least so much of it.
constexpr int64_t kWorthWaiting = 16;

struct Running {
  uint64_t id;
  GenerationRequest request;
  TextStream text;
  int64_t slot;
  int64_t computed;  // tokens of prompt + answer whose keys and values are in the cache, or being computed
  std::vector<int32_t> answer;
  bool in_flight = false;  // a token is being drawn
  bool cancelled = false;

  int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
  bool reading() const { return computed < prompt_size(); }
  // The answer may be so long.
  int64_t most(int64_t context) const {
    return std::min(request.sampling.max_tokens, context - prompt_size());
  }
};

class BatchEngine final : public Engine {
 public:
  BatchEngine(std::unique_ptr<LoadedModel> owned, LoadedModel& model, const EngineOptions& options,
              const Tokenizer& tokenizer)
      : owned_(std::move(owned)),
        model_(model),
        tokenizer_(tokenizer),
        max_sequences_(options.max_sequences),
        prefill_tokens_(prefill_tokens(model, options)),
        runner_(model, limits_of(model, options), options.max_sequences),
        slots_(options.max_sequences),
        end_tokens_(model.end_tokens().begin(), model.end_tokens().end()) {
    end_tokens_.insert(options.end_tokens.begin(), options.end_tokens.end());
  }

  int64_t max_context() const override { return runner_.limits().context; }
  int64_t max_sequences() const override { return max_sequences_; }
  bool has_adapter() const override { return model_.has_adapter(); }

  uint64_t submit(GenerationRequest request) override {
    validate(request);
    std::lock_guard lock(mutex_);
    uint64_t id = ++last_id_;
    waiting_.push_back({id, std::move(request)});
    ++stats_.waiting;
    return id;
  }

  void cancel(uint64_t request) override {
    std::lock_guard lock(mutex_);
    cancelled_.insert(request);
  }

  std::vector<GenerationEvent> step() override {
    Stopwatch time;
    std::vector<GenerationEvent> events;
    take_cancelled(events);
    bool ahead = model_.decode().asynchronous();
    if (!in_flight()) launch();
    if (in_flight()) collect(events);
    if (ahead) launch();
    speak(events);
    std::lock_guard lock(mutex_);
    stats_.running = static_cast<int64_t>(running_.size());
    stats_.busy_seconds += time.seconds();
    return events;
  }

  bool idle() const override {
    std::lock_guard lock(mutex_);
    return waiting_.empty() && stats_.running == 0;
  }

  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  struct Waiting {
    uint64_t id;
    GenerationRequest request;
  };

  static int64_t prefill_tokens(const LoadedModel& model, const EngineOptions& options) {
    if (options.prefill_tokens > 0) return options.prefill_tokens;
    return model.device().kind() == DeviceKind::cuda ? 8192 : 512;
  }
  static InferenceLimits limits_of(const LoadedModel& model, const EngineOptions& options) {
    int64_t context = std::min(options.max_context, model.config().max_position_embeddings);
    if (options.max_sequences < 1 || context < 2)
      user_error("generation: {} sequences of {} tokens make no sense; give at least 1 and 2",
                 options.max_sequences, context);
    return {.max_rows = std::max(prefill_tokens(model, options), options.max_sequences),
            .logits_rows = options.max_sequences,
            .slots = options.max_sequences,
            .context = context};
  }

  void validate(const GenerationRequest& r) const;
  void take_cancelled(std::vector<GenerationEvent>& events);
  void admit();
  void launch();
  void launch_prefill();
  void launch_decode();
  void collect(std::vector<GenerationEvent>& events);
  GenerationEvent give(Running& r, int32_t token);
  void speak(std::vector<GenerationEvent>& events);
  SampleRow draw_of(const Running& r) const;
  bool in_flight() const { return !order_.empty(); }

  std::unique_ptr<LoadedModel> owned_;
  LoadedModel& model_;
  const Tokenizer& tokenizer_;
  int64_t max_sequences_;
  int64_t prefill_tokens_;
  BatchRunner runner_;
  SlotTable slots_;
  std::set<int32_t> end_tokens_;

  // only step() touches these
  using Place = std::list<Running>::iterator;
  // A token whose text can wait until the next step is launched: nothing depends on it.
  struct Unspoken {
    size_t event;
    Place request;
  };
  std::list<Running> running_;   // in order of admission
  std::list<Running> finished_;  // until their last text is out
  std::vector<Place> order_;     // requests whose tokens are being drawn, as collect() gives them
  std::vector<Unspoken> unspoken_;

  mutable std::mutex mutex_;  // of what follows
  std::deque<Waiting> waiting_;
  std::set<uint64_t> cancelled_;
  uint64_t last_id_ = 0;
  EngineStats stats_;
};

void BatchEngine::validate(const GenerationRequest& r) const {
  auto refuse = [](const std::string& what) { user_error("request: {}", what); };
  const SamplingParams& s = r.sampling;
  if (r.prompt.empty()) refuse("the prompt has no tokens; give at least one");
  if (static_cast<int64_t>(r.prompt.size()) > max_context() - 1)
    refuse(fmt::format(
        "the prompt has {} tokens, and {} is the most (the context of {} must hold the answer too); "
        "shorten it",
        r.prompt.size(), max_context() - 1, max_context()));
  for (int32_t token : r.prompt)
    if (token < 0 || token >= model_.config().vocab_size)
      refuse(fmt::format("token {} is not in the model's vocabulary of {}; was it made by another tokenizer?",
                         token, model_.config().vocab_size));
  if (r.weights == AnswerWeights::adapted && !has_adapter())
    refuse("the adapter's answer is asked for, and no adapter was loaded; give --adapter");
  auto in = [&](const char* name, double value, double low, double high) {
    if (!(value >= low && value <= high))
      refuse(fmt::format("{} is {}, and must be between {} and {}", name, value, low, high));
  };
  in("temperature", s.temperature, 0, 100);
  in("top_p", s.top_p, 0, 1);
  in("min_p", s.min_p, 0, 1);
  in("top_k", static_cast<double>(s.top_k), 0, 1e9);
  if (!(s.repetition_penalty > 0 && s.repetition_penalty <= 100))
    refuse(
        fmt::format("repetition_penalty is {}, and must be above 0 and at most 100", s.repetition_penalty));
  if (s.max_tokens < 1) refuse(fmt::format("max_tokens is {}, and must be at least 1", s.max_tokens));
}

void BatchEngine::take_cancelled(std::vector<GenerationEvent>& events) {
  std::lock_guard lock(mutex_);
  for (uint64_t id : cancelled_) {
    auto waits = std::find_if(waiting_.begin(), waiting_.end(), [&](auto& w) { return w.id == id; });
    if (waits != waiting_.end()) {
      waiting_.erase(waits);
      --stats_.waiting;
      events.push_back({.request = id, .finish = FinishReason::cancelled});
      continue;
    }
    auto runs = std::find_if(running_.begin(), running_.end(), [&](auto& r) { return r.id == id; });
    if (runs == running_.end()) continue;
    if (runs->in_flight) {  // leaves when its token comes
      runs->cancelled = true;
      continue;
    }
    slots_.release(runs->slot);
    running_.erase(runs);
    events.push_back({.request = id, .finish = FinishReason::cancelled});
  }
  cancelled_.clear();
}

void BatchEngine::admit() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < waiting_.size() && slots_.has_free();) {
    GenerationRequest& request = waiting_[i].request;
    if (slots_.soon_shared(request.prompt, request.weights) >= kWorthWaiting) {
      ++i;
      continue;
    }
    SlotTable::Place place = slots_.take(request.prompt, request.weights);
    if (place.from) runner_.copy_prefix(*place.from, place.slot, place.shared);
    slots_.announce(place.slot, request.prompt);
    if (request.sampling.repetition_penalty != 1) runner_.set_seen(place.slot, request.prompt);
    stats_.prompt_tokens += static_cast<int64_t>(request.prompt.size());
    stats_.cached_tokens += place.shared;
    --stats_.waiting;
    TextStream text(tokenizer_, request.sampling.stop);
    running_.push_back({waiting_[i].id, std::move(request), std::move(text), place.slot, place.shared, {}});
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  stats_.running = static_cast<int64_t>(running_.size());
}

SampleRow BatchEngine::draw_of(const Running& r) const {
  const SamplingParams& s = r.request.sampling;
  uint64_t random = CounterRng(s.seed, kSampleStream).bits(r.answer.size());
  // below this no two logits of a float are near enough to share probability, and 1 / temperature overflows
  constexpr double kGreedy = 1e-6;
  return {.temperature = s.temperature < kGreedy ? 0.0f : static_cast<float>(s.temperature),
          .top_p = static_cast<float>(s.top_p),
          .min_p = static_cast<float>(s.min_p),
          .penalty = static_cast<float>(s.repetition_penalty),
          .top_k = static_cast<int32_t>(s.top_k),
          .seen = s.repetition_penalty == 1 ? -1 : static_cast<int32_t>(r.slot),
          .random_low = static_cast<uint32_t>(random),
          .random_high = static_cast<uint32_t>(random >> 32)};
}

void BatchEngine::launch() {
  admit();
  launch_decode();
  launch_prefill();
}

void BatchEngine::launch_decode() {
  std::vector<StepRow> rows;
  std::vector<SampleRow> draws;
  for (Place place = running_.begin(); place != running_.end(); ++place) {
    Running& r = *place;
    if (r.reading()) continue;
    rows.push_back({r.answer.back(), static_cast<int32_t>(r.computed), static_cast<int32_t>(r.slot),
                    r.request.weights == AnswerWeights::adapted ? 1 : 0});
    draws.push_back(draw_of(r));
    slots_.cached(r.slot, {&r.answer.back(), 1});
    ++r.computed;
    r.in_flight = true;
    order_.push_back(place);
  }
  if (!rows.empty()) runner_.decode(rows, draws);
}

void BatchEngine::launch_prefill() {
  struct Piece {
    Place place;
    int64_t count;
  };
  std::vector<Piece> pieces;
  int64_t room = prefill_tokens_;
  for (Place place = running_.begin(); place != running_.end() && room > 0; ++place) {
    if (!place->reading()) continue;
    pieces.push_back({place, std::min(room, place->prompt_size() - place->computed)});
    room -= pieces.back().count;
  }
  // what reads from its start need not look into the cache
  std::stable_partition(pieces.begin(), pieces.end(), [](const Piece& p) { return p.place->computed == 0; });

  std::vector<StepRow> rows;
  std::vector<int32_t> sampled;
  std::vector<SampleRow> draws;
  for (auto [place, count] : pieces) {
    Running& r = *place;
    std::span<const int32_t> piece =
        std::span(r.request.prompt).subspan(static_cast<size_t>(r.computed), static_cast<size_t>(count));
    for (int32_t token : piece)
      rows.push_back({token, static_cast<int32_t>(r.computed++), static_cast<int32_t>(r.slot),
                      r.request.weights == AnswerWeights::adapted ? 1 : 0});
    slots_.cached(r.slot, piece);
    if (r.reading()) continue;
    sampled.push_back(static_cast<int32_t>(rows.size()) - 1);
    draws.push_back(draw_of(r));
    r.in_flight = true;
    order_.push_back(place);
  }
  if (!rows.empty()) runner_.prefill(rows, sampled, draws);
}

// One token for a request: whether it ends, and its text where that decides it.
GenerationEvent BatchEngine::give(Running& r, int32_t token) {
  r.in_flight = false;
  GenerationEvent event{.request = r.id};
  if (r.cancelled) {
    event.finish = FinishReason::cancelled;
    return event;
  }
  if (end_tokens_.contains(token)) {
    event.finish = FinishReason::stop;
    return event;
  }
  r.answer.push_back(token);
  event.tokens.push_back(token);
  if (r.text.has_stops()) event.text = r.text.push(static_cast<TokenId>(token));
  if (r.text.stopped())
    event.finish = FinishReason::stop;
  else if (static_cast<int64_t>(r.answer.size()) >= r.most(max_context()))
    event.finish = FinishReason::length;
  return event;
}

void BatchEngine::collect(std::vector<GenerationEvent>& events) {
  std::vector<int32_t> tokens = runner_.collect();
  check(tokens.size() == order_.size(), "tokens and requests differ in number");
  int64_t generated = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    Place place = order_[i];
    events.push_back(give(*place, tokens[i]));
    unspoken_.push_back({events.size() - 1, place});
    generated += static_cast<int64_t>(events.back().tokens.size());
    if (events.back().finish == FinishReason::running) continue;
    slots_.release(place->slot);
    finished_.splice(finished_.end(), running_, place);
  }
  order_.clear();
  std::lock_guard lock(mutex_);
  stats_.generated_tokens += generated;
}

void BatchEngine::speak(std::vector<GenerationEvent>& events) {
  for (const Unspoken& u : unspoken_) {
    GenerationEvent& event = events[u.event];
    TextStream& text = u.request->text;
    if (event.finish == FinishReason::cancelled) continue;
    if (!text.has_stops())
      for (int32_t token : event.tokens) event.text += text.push(static_cast<TokenId>(token));
    if (event.finish == FinishReason::running) continue;
    event.text += text.finish();
    if (text.stopped()) event.finish = FinishReason::stop;
  }
  unspoken_.clear();
  finished_.clear();
}

std::unique_ptr<Engine> checked(std::unique_ptr<LoadedModel> owned, LoadedModel& model,
                                const EngineOptions& options, const Tokenizer& tokenizer) {
  if (tokenizer.vocabulary_size() > static_cast<size_t>(model.config().vocab_size))
    user_error(
        "{}: the tokenizer has {} tokens and the model {}; use the tokenizer that belongs to the model",
        options.source.model.empty() ? "tokenizer" : options.source.model.string(),
        tokenizer.vocabulary_size(), model.config().vocab_size);
  return std::make_unique<BatchEngine>(std::move(owned), model, options, tokenizer);
}

}  // namespace

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::running:
      return "running";
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
  }
  return "";
}

std::unique_ptr<Engine> make_engine(const EngineOptions& options, const Tokenizer& tokenizer) {
  auto model = std::make_unique<LoadedModel>(options.source);
  LoadedModel& reference = *model;
  model->device().set_memory_advice("lower --context or --max-sequences");
  return checked(std::move(model), reference, options, tokenizer);
}

std::unique_ptr<Engine> make_engine(LoadedModel& model, const EngineOptions& options,
                                    const Tokenizer& tokenizer) {
  return checked(nullptr, model, options, tokenizer);
}

}  // namespace llmft
