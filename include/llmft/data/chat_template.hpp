// How a sample becomes tokens. Two templates:
//
// llama3 (as transformers' apply_chat_template has it for Llama 3; for tokenizers with header tokens):
//   <|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>
//   <|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>
//   <|start_header_id|>assistant<|end_header_id|>\n\n{response}<|eot_id|>          (in one line)
//   An empty system prompt gives no system turn.
// plain (any tokenizer with an end-of-text token; BOS where it has one):
//   {BOS}{system}\n\n### Question:\n{question}\n\n### Response:\n{response}{EOS}
//   An empty system prompt is left out with the blank line after it.
//
// A conversation of several turns repeats the sample's form: llama3 a turn after the other; plain the
// question and the response with its EOS, over and over.
//
// Blanks at both ends of each field are trimmed, as Python's str.strip() does. Fields are encoded as ordinary
// text: names of special tokens in them stay characters. The ids are those of the rendered text with special
// tokens parsed, when no field has such a name in it. Supervised are the response's tokens and the token that
// ends it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

enum class TemplateKind { automatic, llama3, plain };

// The three fields of a sample, valid UTF-8.
struct ChatFields {
  std::string_view system_prompt;
  std::string_view question;
  std::string_view response;
};

enum class ChatRole { system, user, assistant };
struct ChatTurn {
  ChatRole role = ChatRole::user;
  std::string text;  // valid UTF-8
};

// Keeps a cache of encoded system prompts, since a data set has few: one object a thread.
class ChatTemplate {
 public:
  // automatic: llama3 where the tokenizer has its tokens, else plain. UserError when the tokenizer lacks a
  // token that the template needs. The tokenizer must outlive this.
  ChatTemplate(TemplateKind kind, const Tokenizer& tokenizer);

  TemplateKind kind() const { return kind_; }
  std::string name() const;  // "llama3", "plain"
  std::optional<TokenId> bos() const { return bos_; }
  TokenId end() const { return end_; }  // ends a response

  // The text, special tokens by name.
  std::string render(const ChatFields& fields) const;
  std::string render_prompt(const ChatFields& fields) const;  // up to where the response starts

  // Appends the sample's tokens; the first loss_start of them are the prompt.
  void encode(const ChatFields& fields, std::vector<TokenId>& tokens, uint32_t& loss_start);
  // Appends the prompt's tokens: what a model is given to write the response.
  void encode_prompt(const ChatFields& fields, std::vector<TokenId>& tokens);
  // Appends a conversation up to where the next response starts; the same as encode_prompt where there is one
  // question. Turns whose text is blank count only if they are the user's.
  void encode_conversation(std::span<const ChatTurn> turns, std::vector<TokenId>& tokens);

 private:
  void append_turn(const std::vector<TokenId>& role, std::string_view content, std::vector<TokenId>& tokens);
  void append_assistant_header(std::vector<TokenId>& tokens) const;
  std::vector<TokenId> ids_of(std::string_view text) const;
  // A response after text that belongs to its prompt, without the token that ends it. Returns how many tokens
  // the prompt's text took.
  size_t append_response(std::string_view prompt, std::string_view response, std::vector<TokenId>& tokens);
  // Everything before the text that the response is encoded with; returns the part of that text which still
  // belongs to the prompt.
  std::string_view encode_head(const ChatFields& fields, std::vector<TokenId>& tokens);

  const Tokenizer& tokenizer_;
  TemplateKind kind_;
  std::optional<TokenId> bos_;
  std::string bos_name_;
  TokenId end_ = 0;
  std::string end_name_;
  TokenId start_header_ = 0;
  TokenId end_header_ = 0;
  std::vector<TokenId> system_role_;
  std::vector<TokenId> user_role_;
  std::vector<TokenId> assistant_role_;
  std::vector<TokenId> blank_line_;  // "\n\n", what a response of llama3 comes after
  std::map<std::string, std::vector<TokenId>, std::less<>> system_cache_;
  std::string scratch_;
  std::string joined_text_;
  std::vector<TokenId> prompt_ids_;
};

// Without the blanks at both ends that Python's str.strip() takes (Unicode white space and U+001C..U+001F).
std::string_view strip(std::string_view text);

// Ids for the manifest; nothing where the tokenizer has none of the usual names.
std::optional<TokenId> find_bos(const Tokenizer& tokenizer);
std::optional<TokenId> find_eos(const Tokenizer& tokenizer);

}  // namespace llmft
