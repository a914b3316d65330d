import i18next from "i18next";
import { initReactI18next } from "react-i18next";
import en from "../locales/en.json";

export const languages = ["en"] as const;

void i18next.use(initReactI18next).init({
  lng: "en",
  fallbackLng: "en",
  supportedLngs: languages,
  resources: { en: { translation: en } },
  interpolation: { escapeValue: false },
  returnNull: false,
  initAsync: false,
});

export default i18next;
