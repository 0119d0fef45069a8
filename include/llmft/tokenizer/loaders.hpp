// The file formats, each read into a tokenizer. content: the whole file; where: its path, for messages.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "llmft/base/log.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

// tiktoken's format: a line an entry, base64 of its bytes, a blank, its rank, which is its id.
bool looks_like_tiktoken(std::string_view content);
// table_bytes: as in BpeModel.
std::unique_ptr<Tokenizer> load_tiktoken(std::string_view content, const std::string& where,
                                         size_t table_bytes = 0);

// Hugging Face's tokenizer.json.
bool looks_like_json(std::string_view content);
std::unique_ptr<Tokenizer> load_hugging_face(std::string_view content, const std::string& where);

// A serialized sentencepiece ModelProto.
std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view content, const std::string& where);

// A warning about a file that every rank reads alike: said by rank 0 alone.
template <class... Args>
void warn_once(fmt::format_string<Args...> format, Args&&... args) {
  if (log::rank() == 0) log::warn_line(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace llmft
