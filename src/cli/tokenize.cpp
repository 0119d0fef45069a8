#include "llmft/cli/tokenize.hpp"

#include <cstring>
#include <iostream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/config/options.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {
namespace {

using nlohmann::json;

constexpr const char* kHelp =
    R"(usage: llmft tokenize --tokenizer DIR_OR_FILE [--special] [--decode]

Reads one JSON string a line on stdin, prints one JSON array of ids a line. Adds no BOS.

examples:
  echo '"Hello world"' | llmft tokenize --tokenizer Llama-3.2-1B
  echo '"Bye<|eot_id|>"' | llmft tokenize --tokenizer Llama-3.2-1B/original/tokenizer.model --special
  echo '[9906, 1917]' | llmft tokenize --tokenizer Llama-3.2-1B --decode

options:
)";

struct TokenizeOptions {
  std::string tokenizer;
  bool special = false;
  bool decode = false;

  void describe(OptionSet& set) {
    set.add("tokenizer", tokenizer, "tokenizer.json, tokenizer.model, or the folder of one",
            {.value_name = "DIR_OR_FILE"});
    set.add("special", special, "names of special tokens in the text become their ids");
    set.add("decode", decode,
            "the other way: arrays of ids in, strings out (U+FFFD for bytes that are not whole characters)");
  }
};

constexpr int kDeepest = 8;

json parse_line(const std::string& line, size_t number) {
  try {
    // Deep nesting would end in a stack overflow where a value is written or destroyed.
    return json::parse(line, [&](int depth, json::parse_event_t, json&) {
      if (depth > kDeepest) user_error("stdin:{}: arrays in arrays; give one JSON value a line", number);
      return true;
    });
  } catch (const json::parse_error& e) {
    const bool text = valid_utf8_prefix(line) == line.size();
    user_error("stdin:{}: not valid JSON (at byte {}{}); give one JSON value a line", number, e.byte,
               text ? "" : ", and it is not UTF-8");
  } catch (const json::out_of_range&) {
    user_error("stdin:{}: a number that is too large; give one JSON value a line", number);
  }
}

std::string encode_line(const Tokenizer& tokenizer, bool special, const std::string& line, size_t number) {
  const json value = parse_line(line, number);
  if (!value.is_string())
    user_error("stdin:{}: a JSON {} where a string is needed; give one JSON string a line, or --decode",
               number, value.type_name());
  std::vector<TokenId> ids;
  const auto& text = value.get_ref<const std::string&>();
  if (special)
    tokenizer.encode_with_special(text, ids);
  else
    tokenizer.encode(text, ids);
  std::string out = "[";
  for (size_t i = 0; i < ids.size(); ++i)
    fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "" : ", ", ids[i]);
  return out + "]\n";
}

// JSON leaves U+0085, U+2028 and U+2029 as they are, and some readers (Python's splitlines) take them for
// line ends.
std::string without_line_ends(std::string text) {
  static constexpr std::pair<const char*, const char*> kEscapes[] = {
      {"\xC2\x85", "\\u0085"}, {"\xE2\x80\xA8", "\\u2028"}, {"\xE2\x80\xA9", "\\u2029"}};
  for (auto [character, escape] : kEscapes)
    for (size_t at = 0; (at = text.find(character, at)) != std::string::npos;)
      text.replace(at, std::strlen(character), escape);
  return text;
}

std::string decode_line(const Tokenizer& tokenizer, const std::string& line, size_t number) {
  const json value = parse_line(line, number);
  if (!value.is_array())
    user_error("stdin:{}: a JSON {} where an array of ids is needed", number, value.type_name());
  std::vector<TokenId> ids;
  for (const json& id : value) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokenizer.vocabulary_size())
      user_error("stdin:{}: {} is not an id (0 to {} are)", number, id.dump(),
                 tokenizer.vocabulary_size() - 1);
    ids.push_back(id.get<TokenId>());
  }
  return without_line_ends(json(tokenizer.decode(ids)).dump(-1, ' ', false, json::error_handler_t::replace)) +
         "\n";
}

}  // namespace

int run_tokenize(std::span<const std::string> args) {
  TokenizeOptions options;
  OptionSet set;
  options.describe(set);
  set.parse(args);
  if (set.help_requested()) {
    std::cout << kHelp << set.help_text();
    return 0;
  }
  if (options.tokenizer.empty())
    user_error("--tokenizer: is missing; give a tokenizer.json, a tokenizer.model, or the folder of one");
  if (options.special && options.decode)
    user_error("--special: has no meaning with --decode; leave one of them out");
  const auto tokenizer = load_tokenizer(options.tokenizer);

  std::ios::sync_with_stdio(false);
  std::cin.tie(nullptr);
  std::string line;
  for (size_t number = 1; std::getline(std::cin, line); ++number) {
    std::cout << (options.decode ? decode_line(*tokenizer, line, number)
                                 : encode_line(*tokenizer, options.special, line, number));
    // Whoever writes line by line and waits for the answer gets it.
    if (std::cin.rdbuf()->in_avail() <= 0) std::cout.flush();
    if (!std::cout) break;
  }
  std::cout.flush();
  if (!std::cout)
    user_error("stdout: cannot write (closed, or the disk is full); check where the output goes");
  return 0;
}

}  // namespace llmft
