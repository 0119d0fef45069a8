// Ctrl-C stops an answer that is being written, and ends the program where none is. Without a terminal the
// answers, and nothing else, go to stdout: a line in, an answer out.
#include "llmft/cli/chat.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "answering.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/base/text.hpp"
#include "llmft/cli/commands.hpp"
#include "llmft/serve/service.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp =
    R"(usage: llmft chat --model DIR [--adapter DIR] [options]

A conversation in the terminal. Ctrl-C stops an answer; Ctrl-D, or Ctrl-C at the prompt, ends. With --adapter the
fine-tuned model answers; /base, /tuned and /both choose. Lines from a pipe are answered one by one, as one
conversation, whose oldest turns are forgotten where the context is full; empty lines are passed over, and those that
begin with / are commands. The exit code is 2 where a line had to stay without an answer.

examples:
  llmft chat --model models/Llama-3.2-1B-Instruct
  llmft chat --model models/Llama-3.2-1B-Instruct --adapter runs/lora/adapter --system "Answer in one sentence."
  llmft chat --model models/Llama-3.2-1B-Instruct --temperature 0 < questions.txt > answers.txt

options:
)";

constexpr const char* kCommands =
    "  /system TEXT   the system prompt; without TEXT: none\n"
    "  /reset         forget the conversation\n"
    "  /retry         another answer to the last question\n"
    "  /base /tuned /both   who answers (with --adapter)\n"
    "  /set NAME VALUE      temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, seed\n"
    "  /help, /quit; a line that ends with \\ goes on in the next\n";

struct ChatOptions {
  std::string system;
  SamplingParams sampling;
  int64_t seed = -1;
};

void describe(OptionSet& set, ChatOptions& options) {
  SamplingParams& s = options.sampling;
  set.add("chat.system", options.system, "system prompt", {.flag = "--system", .value_name = "TEXT"});
  set.add("chat.temperature", s.temperature, "0: always the likeliest token",
          {.flag = "--temperature", .min = 0, .max = 2});
  set.add("chat.top_p", s.top_p, "only the likeliest tokens of this mass",
          {.flag = "--top-p", .min = 0.001, .max = 1});
  set.add("chat.top_k", s.top_k, "only so many of the likeliest tokens; 0: all",
          {.flag = "--top-k", .min = 0, .max = std::numeric_limits<int32_t>::max()});
  set.add("chat.min_p", s.min_p, "no token below this share of the likeliest",
          {.flag = "--min-p", .min = 0, .max = 1});
  set.add("chat.repetition_penalty", s.repetition_penalty, "1: none",
          {.flag = "--repetition-penalty", .min = 0.01, .max = 100});
  set.add("chat.max_tokens", s.max_tokens, "longest answer", {.flag = "--max-tokens", .min = 1, .max = 1e9});
  set.add("chat.seed", options.seed, "same seed, same answer; -1: another one each time",
          {.flag = "--seed", .min = -1});
}

int g_interrupts[2] = {-1, -1};  // a pipe: what is in it can be waited for together with the terminal

void note_interrupt(int) {
  [[maybe_unused]] auto written = ::write(g_interrupts[1], "", 1);
}

void catch_interrupts() {
  if (::pipe2(g_interrupts, O_NONBLOCK | O_CLOEXEC) != 0)
    user_error("cannot make a pipe ({})", std::strerror(errno));
  struct sigaction action {};
  action.sa_handler = note_interrupt;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

// Was Ctrl-C pressed since the last call?
bool take_interrupt() {
  char bytes[64];
  return ::read(g_interrupts[0], bytes, sizeof bytes) > 0;
}

class LineReader {
 public:
  // A line without its end; nothing at the end of the input or on Ctrl-C.
  std::optional<std::string> next() {
    for (;;) {
      if (size_t end = buffer_.find('\n'); end != std::string::npos) return take(end, end + 1);
      pollfd ready[] = {{STDIN_FILENO, POLLIN, 0}, {g_interrupts[0], POLLIN, 0}};
      if (::poll(ready, 2, -1) < 0 && errno == EINTR) continue;
      if (take_interrupt()) return std::nullopt;
      char bytes[4096];
      ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (n < 0) return std::nullopt;
      if (n == 0) return buffer_.empty() ? std::nullopt : std::optional(take(buffer_.size(), buffer_.size()));
      buffer_.append(bytes, static_cast<size_t>(n));
    }
  }

 private:
  std::string take(size_t length, size_t used) {
    std::string line = buffer_.substr(0, length);
    buffer_.erase(0, used);
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }
  std::string buffer_;
};

struct Exchange {
  std::string question;
  std::string answers[2];  // by AnswerWeights
};

class Conversation {
 public:
  Conversation(Answering answering, const AnsweringOptions& model, ChatOptions options)
      : answering_(std::move(answering)),
        template_(model.chat_template, *answering_.tokenizer),
        options_(std::move(options)),
        names_(model_names(model.model, model.adapter)),
        terminal_(::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0) {
    if (answering_.engine->has_adapter()) speakers_ = {AnswerWeights::adapted};
  }

  // Whether every line got its answer.
  bool run() {
    if (terminal_) std::printf("%s. /help lists commands; Ctrl-D ends.\n", title().c_str());
    while (std::optional<std::string> line = read_message()) {
      if (trim(*line).empty()) continue;
      if (line->starts_with('/')) {
        if (!command(std::string(trim(*line)))) break;
        continue;
      }
      history_.push_back({std::move(*line), {}});
      answer();
    }
    if (terminal_) std::printf("\n");
    return all_answered_;
  }

 private:
  std::string title() const {
    return names_.adapted.empty() ? names_.base : names_.base + " and " + names_.adapted;
  }
  const std::string& name(AnswerWeights weights) const {
    return weights == AnswerWeights::base ? names_.base : names_.adapted;
  }

  std::optional<std::string> read_message() {
    std::string text;
    for (;;) {
      if (terminal_) std::printf("%s", text.empty() ? "\n> " : "… ");
      std::fflush(stdout);
      std::optional<std::string> line = reader_.next();
      if (!line) return text.empty() ? std::nullopt : std::optional(text);
      if (valid_utf8_prefix(*line) != line->size()) {
        log::warn("the line is not UTF-8 and was left out");
        note_unanswered();
        continue;
      }
      if (!line->ends_with('\\')) return text + *line;
      line->back() = '\n';
      text += *line;
    }
  }

  // Whoever sits at a terminal has seen it.
  void note_unanswered() {
    if (!terminal_) all_answered_ = false;
  }

  void say(const std::string& text) const { std::fprintf(stderr, "%s\n", text.c_str()); }

  // false: the end
  bool command(const std::string& line) {
    std::string word = line.substr(0, line.find(' '));
    std::string rest(trim(std::string_view(line).substr(word.size())));
    bool two = answering_.engine->has_adapter();
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/help") {
      std::fputs(kCommands, stderr);
    } else if (word == "/system") {
      options_.system = rest;
      say(rest.empty() ? "no system prompt" : "system prompt set");
    } else if (word == "/reset") {
      history_.clear();
      say("a new conversation");
    } else if (word == "/retry") {
      if (history_.empty())
        say("nothing was asked yet");
      else
        answer();
    } else if (word == "/set") {
      if (change(rest)) say(rest + " is set");
    } else if (word == "/base" || word == "/tuned" || word == "/both") {
      if (!two) {
        say("there is no adapter; start with --adapter DIR");
      } else {
        speakers_.clear();
        if (word != "/tuned") speakers_.push_back(AnswerWeights::base);
        if (word != "/base") speakers_.push_back(AnswerWeights::adapted);
        say(speakers_.size() == 2 ? "both answer" : name(speakers_[0]) + " answers");
      }
    } else {
      note_unanswered();
      say(word + ": no such command; /help lists them. A message that starts with / can follow a blank");
    }
    return true;
  }

  bool change(const std::string& rest) {
    std::vector<std::string> words = split(rest, ' ');
    OptionSet set;
    ChatOptions changed = options_;
    describe(set, changed);
    try {
      if (words.size() != 2) user_error("/set: give a name and a value, as /set temperature 0.7");
      set.parse(std::vector<std::string>{"--chat." + words[0] + "=" + words[1]});
      options_ = changed;
      return true;
    } catch (const UserError& e) {
      std::string what = e.what();
      constexpr std::string_view kOption = "--chat.";
      if (size_t at = what.find(kOption); at != std::string::npos) what.replace(at, kOption.size(), "/set ");
      say(what);
      return false;
    }
  }

  std::vector<int32_t> prompt(AnswerWeights weights) {
    std::vector<ChatTurn> turns = {{ChatRole::system, options_.system}};
    for (const Exchange& exchange : history_) {
      turns.push_back({ChatRole::user, exchange.question});
      if (&exchange == &history_.back()) break;
      auto own = static_cast<size_t>(weights);
      turns.push_back({ChatRole::assistant,
                       exchange.answers[own].empty() ? exchange.answers[1 - own] : exchange.answers[own]});
    }
    std::vector<TokenId> ids;
    template_.encode_conversation(turns, ids);
    return {ids.begin(), ids.end()};
  }

  struct Answer {
    AnswerWeights weights;
    uint64_t number = 0;
    std::string text;
    int64_t tokens = 0;
    FinishReason finish = FinishReason::running;
    double seconds = 0;
    size_t shown = 0;
  };

  void forget_what_does_not_fit() {
    int64_t context = answering_.engine->max_context();
    int64_t room = std::min(options_.sampling.max_tokens, context / 2);
    auto fits = [&](AnswerWeights weights) {
      return static_cast<int64_t>(prompt(weights).size()) + room <= context;
    };
    while (history_.size() > 1 && !std::all_of(speakers_.begin(), speakers_.end(), fits))
      history_.erase(history_.begin());
  }

  // All speakers at once in one batch; their texts one after the other.
  void answer() {
    std::vector<Answer> answers;
    Engine& engine = *answering_.engine;
    if (!terminal_) forget_what_does_not_fit();
    for (AnswerWeights weights : speakers_) {
      GenerationRequest request{prompt(weights), options_.sampling, weights};
      auto used = static_cast<int64_t>(request.prompt.size());
      if (used >= engine.max_context()) {
        say(
            fmt::format("the conversation has {} tokens and no longer fits into the context of {}; /reset "
                        "starts a new one",
                        used, engine.max_context()));
        history_.pop_back();
        if (!terminal_) std::printf("\n");  // a line in, a line out
        note_unanswered();
        return;
      }
      request.sampling.max_tokens = std::min(request.sampling.max_tokens, engine.max_context() - used);
      request.sampling.seed = options_.seed < 0
                                  ? mix64(static_cast<uint64_t>(Clock::now().time_since_epoch().count()))
                                  : static_cast<uint64_t>(options_.seed);
      Answer one{weights};
      one.number = engine.submit(std::move(request));
      answers.push_back(std::move(one));
    }
    Stopwatch watch;
    size_t showing = 0;
    begin(answers[0]);
    while (!engine.idle()) {
      if (take_interrupt())
        for (const Answer& one : answers) engine.cancel(one.number);
      for (const GenerationEvent& event : engine.step())
        for (Answer& one : answers) {
          if (one.number != event.request) continue;
          one.text += event.text;
          one.tokens += static_cast<int64_t>(event.tokens.size());
          one.finish = event.finish;
          one.seconds = watch.seconds();
        }
      while (showing < answers.size()) {
        show(answers[showing]);
        if (answers[showing].finish == FinishReason::running) break;
        finish(answers[showing]);
        if (++showing < answers.size()) begin(answers[showing]);
      }
    }
    for (const Answer& one : answers) history_.back().answers[static_cast<size_t>(one.weights)] = one.text;
    take_interrupt();  // one that came too late to stop anything
  }

  void begin(const Answer& answer) const {
    if (speakers_.size() > 1)
      std::printf("%s[%s]%s\n", terminal_ ? "\033[1m" : "", name(answer.weights).c_str(),
                  terminal_ ? "\033[0m" : "");
  }
  void show(Answer& answer) const {
    std::string fresh = printable(answer.text.substr(answer.shown));
    answer.shown = answer.text.size();
    std::fwrite(fresh.data(), 1, fresh.size(), stdout);
    std::fflush(stdout);
  }
  void finish(const Answer& answer) const {
    std::printf("\n");
    if (terminal_)
      std::printf("\033[2m%s%lld tokens, %.1f tokens/s\033[0m\n",
                  answer.finish == FinishReason::cancelled ? "stopped; "
                  : answer.finish == FinishReason::length  ? "cut at its longest; "
                                                           : "",
                  static_cast<long long>(answer.tokens),
                  answer.seconds > 0 ? static_cast<double>(answer.tokens) / answer.seconds : 0);
    std::fflush(stdout);
  }
  // A model's text must not steer the terminal: control characters but tab and newline show as U+FFFD.
  std::string printable(const std::string& text) const {
    if (!terminal_) return text;
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      auto c = static_cast<unsigned char>(text[i]);
      bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
      if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || c1) {
        out += "\xef\xbf\xbd";
        if (c1) ++i;
      } else {
        out += text[i];
      }
    }
    return out;
  }

  using Clock = std::chrono::system_clock;

  Answering answering_;
  ChatTemplate template_;
  ChatOptions options_;
  ModelNames names_;
  bool terminal_;
  std::vector<AnswerWeights> speakers_ = {AnswerWeights::base};
  std::vector<Exchange> history_;
  bool all_answered_ = true;
  LineReader reader_;
};

}  // namespace

int run_chat(std::span<const std::string> args) {
  AnsweringOptions answering;
  answering.max_sequences = 2;
  ChatOptions options;
  options.sampling.temperature = 0.7;
  options.sampling.max_tokens = 1024;
  OptionSet set;
  describe(set, answering);
  describe(set, options);
  set.parse(args);
  if (set.help_requested()) {
    fmt::print("{}{}", kHelp, set.help_text());
    return kExitOk;
  }
  Conversation conversation(load_answering(answering, "chat"), answering, std::move(options));
  catch_interrupts();
  return conversation.run() ? kExitOk : kExitUser;
}

}  // namespace llmft
