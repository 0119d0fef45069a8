// Text between two special tokens is encoded in one piece, for the split between its parts could give other
// tokens than the rendered text has. The one place where a split matters is the start of the response, and
// there the ids of both forms are compared.
#include "llmft/data/chat_template.hpp"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {

constexpr const char* kStartHeader = "<|start_header_id|>";
constexpr const char* kEndHeader = "<|end_header_id|>";
constexpr const char* kEndOfTurn = "<|eot_id|>";
constexpr size_t kSystemCache = 1024;  // prompts; OpenOrca has 17

constexpr std::array kBosNames = {"<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|startoftext|>"};
constexpr std::array kEosNames = {"<|end_of_text|>", "</s>", "<|endoftext|>", "<eos>", "[EOS]"};

template <size_t N>
std::string first_name(const Tokenizer& tokenizer, const std::array<const char*, N>& names) {
  for (const char* name : names)
    if (tokenizer.special(name)) return name;
  return "";
}

bool has_headers(const Tokenizer& tokenizer) {
  return tokenizer.special(kStartHeader) && tokenizer.special(kEndHeader) && tokenizer.special(kEndOfTurn) &&
         tokenizer.special(kBosNames[0]);
}

}  // namespace

std::string_view strip(std::string_view text) {
  while (size_t length = leading_blank(text)) text.remove_prefix(length);
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) --start;
    std::string_view last = text.substr(start);
    if (leading_blank(last) != last.size()) break;
    text.remove_suffix(last.size());
  }
  return text;
}

std::optional<TokenId> find_bos(const Tokenizer& tokenizer) {
  return tokenizer.special(first_name(tokenizer, kBosNames));
}
std::optional<TokenId> find_eos(const Tokenizer& tokenizer) {
  return tokenizer.special(first_name(tokenizer, kEosNames));
}

ChatTemplate::ChatTemplate(TemplateKind kind, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), kind_(kind), bos_name_(first_name(tokenizer, kBosNames)) {
  if (kind_ == TemplateKind::automatic)
    kind_ = has_headers(tokenizer) ? TemplateKind::llama3 : TemplateKind::plain;
  if (!bos_name_.empty()) bos_ = tokenizer.special(bos_name_);
  if (kind_ == TemplateKind::llama3) {
    for (const char* name : {kBosNames[0], kStartHeader, kEndHeader, kEndOfTurn})
      if (!tokenizer.special(name))
        user_error("template llama3: the tokenizer has no token {}; use --template plain", name);
    start_header_ = *tokenizer.special(kStartHeader);
    end_header_ = *tokenizer.special(kEndHeader);
    end_name_ = kEndOfTurn;
    system_role_ = ids_of("system");
    user_role_ = ids_of("user");
    assistant_role_ = ids_of("assistant");
    blank_line_ = ids_of("\n\n");
  } else {
    end_name_ = first_name(tokenizer, kEosNames);
    if (end_name_.empty())
      user_error(
          "template plain: the tokenizer has no end-of-text token (looked for {}); use one that marks where "
          "a text ends",
          fmt::join(kEosNames, ", "));
  }
  end_ = *tokenizer.special(end_name_);
}

std::string ChatTemplate::name() const {
  return kind_ == TemplateKind::llama3 ? "llama3" : "plain";
}

std::string ChatTemplate::render_prompt(const ChatFields& fields) const {
  std::string text = bos_name_;
  std::string_view system = strip(fields.system_prompt);
  if (kind_ == TemplateKind::plain) {
    if (!system.empty()) text += fmt::format("{}\n\n", system);
    return text + fmt::format("### Question:\n{}\n\n### Response:\n", strip(fields.question));
  }
  auto turn = [&](const char* role, std::string_view content) {
    text += fmt::format("{}{}{}\n\n{}{}", kStartHeader, role, kEndHeader, content, kEndOfTurn);
  };
  if (!system.empty()) turn("system", system);
  turn("user", strip(fields.question));
  return text + fmt::format("{}assistant{}\n\n", kStartHeader, kEndHeader);
}

std::string ChatTemplate::render(const ChatFields& fields) const {
  return render_prompt(fields) + std::string(strip(fields.response)) + end_name_;
}

std::vector<TokenId> ChatTemplate::ids_of(std::string_view text) const {
  std::vector<TokenId> ids;
  tokenizer_.encode(text, ids);
  return ids;
}

void ChatTemplate::append_turn(const std::vector<TokenId>& role, std::string_view content,
                               std::vector<TokenId>& tokens) {
  tokens.push_back(start_header_);
  tokens.insert(tokens.end(), role.begin(), role.end());
  tokens.push_back(end_header_);
  scratch_.assign("\n\n");
  scratch_ += content;
  tokenizer_.encode(scratch_, tokens);
  tokens.push_back(end_);
}

void ChatTemplate::append_assistant_header(std::vector<TokenId>& tokens) const {
  tokens.push_back(start_header_);
  tokens.insert(tokens.end(), assistant_role_.begin(), assistant_role_.end());
  tokens.push_back(end_header_);
}

std::string_view ChatTemplate::encode_head(const ChatFields& fields, std::vector<TokenId>& tokens) {
  if (bos_) tokens.push_back(*bos_);
  std::string_view system = strip(fields.system_prompt);
  if (kind_ == TemplateKind::plain) {
    scratch_.clear();
    if (!system.empty()) scratch_.append(system).append("\n\n");
    scratch_.append("### Question:\n").append(strip(fields.question)).append("\n\n### Response:\n");
    return scratch_;
  }
  if (!system.empty()) {
    auto cached = system_cache_.find(system);
    if (cached == system_cache_.end()) {
      std::vector<TokenId> turn;
      append_turn(system_role_, system, turn);
      if (system_cache_.size() >= kSystemCache) system_cache_.clear();
      cached = system_cache_.emplace(system, std::move(turn)).first;
    }
    tokens.insert(tokens.end(), cached->second.begin(), cached->second.end());
  }
  append_turn(user_role_, strip(fields.question), tokens);
  append_assistant_header(tokens);
  scratch_ = "\n\n";
  return scratch_;
}

void ChatTemplate::encode_prompt(const ChatFields& fields, std::vector<TokenId>& tokens) {
  std::string_view tail = encode_head(fields, tokens);
  tokenizer_.encode(tail, tokens);
}

void ChatTemplate::encode(const ChatFields& fields, std::vector<TokenId>& tokens, uint32_t& loss_start) {
  size_t begin = tokens.size();
  std::string_view prompt = encode_head(fields, tokens);  // lies in scratch_
  size_t head = tokens.size() - begin;
  loss_start = static_cast<uint32_t>(head + append_response(prompt, strip(fields.response), tokens));
  tokens.push_back(end_);
}

size_t ChatTemplate::append_response(std::string_view prompt, std::string_view response,
                                     std::vector<TokenId>& tokens) {
  if (kind_ == TemplateKind::llama3) {
    prompt_ids_ = blank_line_;
  } else {
    prompt_ids_.clear();
    tokenizer_.encode(prompt, prompt_ids_);
  }
  joined_text_.assign(prompt).append(response);
  size_t begin = tokens.size();
  tokenizer_.encode(joined_text_, tokens);
  auto joined = std::span(tokens).subspan(begin);
  bool splits = joined.size() > prompt_ids_.size() &&
                std::equal(prompt_ids_.begin(), prompt_ids_.end(), joined.begin());
  if (!splits) {
    // A token would span prompt and response (none does in Llama 3's vocabulary, where a response that does
    // not start with a blank starts a word). The prompt must be what the model is given later, so it is kept
    // whole.
    tokens.resize(begin);
    tokens.insert(tokens.end(), prompt_ids_.begin(), prompt_ids_.end());
    tokenizer_.encode(response, tokens);
  }
  return prompt_ids_.size();
}

void ChatTemplate::encode_conversation(std::span<const ChatTurn> turns, std::vector<TokenId>& tokens) {
  if (bos_) tokens.push_back(*bos_);
  std::string pending;  // plain: the text since the last special token
  for (const ChatTurn& turn : turns) {
    std::string_view text = strip(turn.text);
    if (text.empty() && turn.role != ChatRole::user) continue;
    if (kind_ == TemplateKind::llama3 && turn.role != ChatRole::assistant) {
      append_turn(turn.role == ChatRole::system ? system_role_ : user_role_, text, tokens);
    } else if (kind_ == TemplateKind::llama3) {
      append_assistant_header(tokens);
      append_response("\n\n", text, tokens);
      tokens.push_back(end_);
    } else if (turn.role == ChatRole::assistant) {
      append_response(pending + "### Response:\n", text, tokens);
      tokens.push_back(end_);
      pending.clear();
    } else {
      if (turn.role == ChatRole::user) pending += "### Question:\n";
      pending.append(text).append("\n\n");
    }
  }
  if (kind_ == TemplateKind::llama3) {
    append_assistant_header(tokens);
    tokens.insert(tokens.end(), blank_line_.begin(), blank_line_.end());
  } else {
    tokenizer_.encode(pending + "### Response:\n", tokens);
  }
}

}  // namespace llmft
