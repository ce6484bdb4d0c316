// Elements by id and new elements. Text enters the page here and by `language.js` alone, always as text.

export const byId = (id) => document.getElementById(id);

/** A new element; `properties` are set on it, children are elements or strings. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
