// Models of the sentencepiece library, which does the encoding. Decoding is done here, since the library's
// replaces bytes that are not whole characters, and drops control tokens.
#include <sentencepiece_processor.h>

#include "llmft/base/error.hpp"
#include "llmft/tokenizer/loaders.hpp"
#include "llmft/tokenizer/name_matcher.hpp"

namespace llmft {
namespace {

constexpr std::string_view kBlankMark = "\u2581";  // stands for a blank in pieces

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view content, const std::string& where) {
    const auto status = processor_.LoadFromSerializedProto(absl::string_view(content.data(), content.size()));
    if (!status.ok() || processor_.GetPieceSize() == 0)
      user_error("{}: neither a tiktoken vocabulary nor a sentencepiece model ({}); get the file again",
                 where, status.ok() ? "it has no pieces" : status.ToString());
    decoded_.resize(static_cast<size_t>(processor_.GetPieceSize()));
    text_.resize(decoded_.size());
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      std::string& bytes = decoded_[static_cast<size_t>(id)];
      const bool special = processor_.IsControl(id) || processor_.IsUnknown(id);
      text_[static_cast<size_t>(id)] = !special;
      if (special) {
        special_[piece] = static_cast<TokenId>(id);
        bytes = piece;
      } else if (processor_.IsByte(id)) {  // named <0x0A>
        bytes.assign(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
      } else {
        bytes = with_blanks(piece);
      }
    }
    names_ = NameMatcher(special_);
    // The model's flag is not in the library's interface; its effect is.
    std::vector<std::string> pieces;
    if (processor_.Encode("a", &pieces).ok() && !pieces.empty())
      adds_blank_ = std::string_view(pieces[0]).starts_with(kBlankMark);
  }

  void encode(std::string_view text, std::vector<TokenId>& out) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(absl::string_view(text.data(), text.size()), &ids);
    if (!status.ok())
      user_error("tokenizer: sentencepiece cannot encode a text of {} bytes ({})", text.size(),
                 status.ToString());
    out.insert(out.end(), ids.begin(), ids.end());
  }

  void encode_with_special(std::string_view text, std::vector<TokenId>& out) const override {
    names_.walk(
        text, [&](std::string_view part) { encode(part, out); }, [&](TokenId id) { out.push_back(id); });
  }

  std::string decode(std::span<const TokenId> ids) const override {
    std::string bytes;
    bool at_start = adds_blank_;  // the blank that encode added is taken away again
    for (TokenId id : ids) {
      if (id >= decoded_.size())
        user_error(
            "tokenizer: id {} is not in the vocabulary (ids end at {}); these ids are another tokenizer's",
            id, decoded_.size() - 1);
      std::string_view piece = decoded_[id];
      if (at_start && text_[id] && piece.starts_with(' ')) piece.remove_prefix(1);
      at_start = adds_blank_ && !text_[id];
      bytes += piece;
    }
    return bytes;
  }

  size_t vocabulary_size() const override { return decoded_.size(); }
  const std::map<std::string, TokenId, std::less<>>& special_tokens() const override { return special_; }
  std::string kind() const override { return "sentencepiece"; }

 private:
  static std::string with_blanks(std::string_view piece) {
    std::string text;
    while (true) {
      const size_t mark = piece.find(kBlankMark);
      text += piece.substr(0, mark);
      if (mark == std::string_view::npos) return text;
      text += ' ';
      piece.remove_prefix(mark + kBlankMark.size());
    }
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> decoded_;  // by id
  std::vector<bool> text_;            // by id: neither control nor unknown
  std::map<std::string, TokenId, std::less<>> special_;
  NameMatcher names_;
  bool adds_blank_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view content, const std::string& where) {
  return std::make_unique<SentencePieceTokenizer>(content, where);
}

}  // namespace llmft
